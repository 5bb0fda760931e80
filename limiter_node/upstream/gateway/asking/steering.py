"""Fields that make a service do other work than was counted: another model, more models, stored data, code, a way in.

None of them is OpenAI's. Some server or gateway that speaks OpenAI's API reads each of them from the body, to choose
the model, the address, the key, or further input. They are refused by name unless a service's `extra_fields` has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from limiter_node.upstream.errors import NotServed

STEERING: Final = frozenset(
    (
        # OpenRouter: other models, other providers, plugins that search, presets that hold a prompt
        "models", "route", "provider", "transforms", "plugins", "preset",
        # LiteLLM: where to ask, with whose key; what to try instead; prompts and data stored there
        "fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks", "api_base",
        "base_url", "api_key", "api_version", "api_type", "custom_llm_provider", "organization", "project",
        "deployment_id", "model_list", "model_info", "mock_response", "mock_tool_calls", "mock_timeout",
        "num_retries", "max_retries", "retry_policy", "headers", "extra_headers", "extra_query", "litellm_params",
        "litellm_credential_name", "litellm_system_prompt", "vertex_project", "vertex_location", "vertex_credentials",
        "aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_region_name", "aws_role_name",
        "aws_session_name", "aws_profile_name", "aws_bedrock_runtime_endpoint", "azure_ad_token", "tenant_id",
        "client_id", "client_secret", "azure_endpoint", "guardrails", "tags", "router_settings", "router",
        "prompt_id", "prompt_variables", "prompt_version", "prompt_label", "vector_store_ids", "callbacks",
        "success_callback", "failure_callback", "input_cost_per_token", "output_cost_per_token",
        "proxy_server_request", "user_config",
        # Portkey and other gateways
        "config", "targets", "strategy", "virtual_key", "override_params",
        # Azure, Google: data stored or searched there
        "data_sources", "dataSources", "enhancements", "cached_content", "cachedContent",
        # vLLM, SGLang, TensorRT-LLM: other weights, other servers, code, more work, others' place in the queue
        "kv_transfer_params", "lora_path", "lora_request", "lora_id", "lora", "custom_logit_processor",
        "custom_params", "logits_processors", "mm_processor_kwargs", "media_io_kwargs", "vllm_xargs",
        "session_params", "bootstrap_host", "bootstrap_port", "bootstrap_room", "data_parallel_rank",
        "disaggregated_params", "priority", "num_beams", "beam_width", "use_beam_search", "conversation_params",
        "request_id", "rid",
        # A template of the caller's own may repeat the prompt as often as it likes
        "chat_template", "roles",
        # Other names of a model
        "engine", "deployment", "model_id", "model_name",
        # llama.cpp, Ollama: whose memory of a prompt to go on with, other weights
        "id_slot", "slot_id", "adapter", "adapter_id", "adapters", "draft_model",
    )
)  # fmt: skip

CONTAINERS: Final = frozenset(
    (
        "extra_body", "extra_json", "options", "parameters", "sampling_params", "generation_config", "generationConfig",
        "optional_params", "model_kwargs",
    )
)  # fmt: skip
"""Objects whose fields some servers treat as fields of the request."""


def refuse_steering(fields: Mapping[str, Any], counting: frozenset[str], extra_fields: frozenset[str]) -> None:
    """Raise `NotServed` for fields that steer, and for fields of containers that steer or are in `counting`."""
    for name, value in fields.items():
        if name in extra_fields or value is None:
            continue
        if name in STEERING:
            raise unsupported(name)
        if name in CONTAINERS and type(value) is dict:
            for within in _names(value):
                if within in STEERING or within in counting:
                    raise unsupported(f"{name}.{within}")


def unsupported(name: str) -> NotServed:
    """Return the error to raise for a field that a request must not have."""
    return NotServed(f"Unsupported parameter: '{name}'.", name, "unsupported_parameter")


def _names(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the fields, and of those in containers among them."""
    waiting = [fields]
    while waiting:
        for name, value in waiting.pop().items():
            yield name
            if name in CONTAINERS and type(value) is dict:
                waiting.append(value)
