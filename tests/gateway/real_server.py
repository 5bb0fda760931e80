"""A real server of the OpenAI API for the gateway to stand in front of: llama.cpp's, with a model made on the spot.

The model has random weights and writes nonsense, but nonsense that can be counted: each byte of text is a token, a
prompt has one more for its beginning, an answer is of letters only and never ends of itself, so it has as many letters
as tokens were allowed; a `logit_bias` of 100 for `END_TOKEN` ends it at once. It needs no network.

Run as a program, with that folder, it is the server's process: see `serve`.
"""

from __future__ import annotations

import json
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

MODEL = "tiny"
END_TOKEN = "2"
SLOTS = 4
SLOT_TOKENS = 16384

START_SECONDS = 30.0
STOP_SECONDS = 10.0
ASK_SECONDS = 2.0
POLL_SECONDS = 0.02

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class RealServer(NamedTuple):
    """Where the server is, ending in /v1, and the name of the model it has."""

    url: str
    model: str

    @property
    def root(self) -> str:
        """Where the routes are that OpenAI hasn't: /slots and /metrics tell what the server is busy with."""
        return self.url.removesuffix("/v1")


def chat_prompt_tokens(content: str) -> int:
    """What the server counts for one message of a user: the text, what the template puts around it, the beginning."""
    around = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    return 1 + len((around + content).encode())


@contextmanager
def running_real_server(directory: Path) -> Iterator[RealServer]:
    """The server as a process of its own, on a free port of 127.0.0.1; it ends with this process, however that ends."""
    log = directory / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        yield RealServer(f"{_root_when_ready(process, directory)}/v1", MODEL)
        if process.poll() is not None:
            raise RuntimeError(f"the server ended by itself ({process.returncode}):\n{_end_of(log)}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _root_when_ready(process: subprocess.Popen[bytes], directory: Path) -> str:
    """The server's address, once it says of itself that it is well."""
    address, deadline = directory / "address", time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server didn't start ({process.returncode}):\n{_end_of(directory / 'log')}")
        if address.exists():
            root = address.read_text()
            try:
                with urlopen(f"{root}/health", timeout=ASK_SECONDS) as response:
                    if json.load(response) == {"status": "ok"}:
                        return root
            except (OSError, HTTPException, ValueError):
                pass  # Not yet.
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"the server wasn't ready in {START_SECONDS:.0f} s:\n{_end_of(directory / 'log')}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def write_model(path: Path, seed: int = 1) -> None:
    """A llama of one layer with random weights, the same for the same seed; some 300 KB."""
    import numpy as np
    from gguf import GGUFWriter, TokenType

    special = {"<unk>": TokenType.UNKNOWN, "<s>": TokenType.CONTROL, "</s>": TokenType.CONTROL}
    octets = {f"<0x{octet:02X}>": TokenType.BYTE for octet in range(256)}
    space, letters = {"▁": TokenType.NORMAL}, dict.fromkeys(string.ascii_lowercase, TokenType.NORMAL)
    vocabulary = special | octets | space | letters
    width, hidden, heads = 64, 128, 2

    model = GGUFWriter(path, "llama")
    model.add_name(MODEL)
    model.add_context_length(SLOT_TOKENS)
    model.add_embedding_length(width)
    model.add_feed_forward_length(hidden)
    model.add_block_count(1)
    model.add_head_count(heads)
    model.add_rope_dimension_count(width // heads)
    model.add_layer_norm_rms_eps(1e-5)
    model.add_vocab_size(len(vocabulary))
    model.add_tokenizer_model("llama")
    model.add_token_list(list(vocabulary))
    model.add_token_types(list(vocabulary.values()))
    model.add_token_scores([0.0] * len(vocabulary))
    model.add_unk_token_id(0)
    model.add_bos_token_id(1)
    model.add_eos_token_id(int(END_TOKEN))
    model.add_add_space_prefix(False)
    model.add_chat_template(_CHAT_TEMPLATE)

    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, spread: float) -> np.ndarray:
        return random.normal(0, spread, (rows, columns)).astype(np.float32)

    # One number is the same whatever was read, and speaks against all tokens but the letters.
    read, write = matrix(len(vocabulary), width, 0.3), matrix(len(vocabulary), width, 0.3)
    read[:, 0] = 2
    write[:, 0] = 0
    write[: -len(letters), 0] = -20
    tensors = {
        "token_embd": read,
        "output": write,
        "output_norm": np.ones(width, np.float32),
        "blk.0.attn_norm": np.ones(width, np.float32),
        "blk.0.ffn_norm": np.ones(width, np.float32),
        "blk.0.attn_q": matrix(width, width, 0.1),
        "blk.0.attn_k": matrix(width, width, 0.1),
        "blk.0.attn_v": matrix(width, width, 0.1),
        "blk.0.attn_output": matrix(width, width, 0.1),
        "blk.0.ffn_gate": matrix(hidden, width, 0.1),
        "blk.0.ffn_up": matrix(hidden, width, 0.1),
        "blk.0.ffn_down": matrix(width, hidden, 0.1),
    }
    for name, tensor in tensors.items():
        model.add_tensor(f"{name}.weight", tensor)
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


def serve(directory: Path) -> None:
    """Make the model, serve it, leave the address in `directory`; until standard input ends, or a signal comes."""
    import xllamacpp

    path = directory / "model.gguf"
    write_model(path)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {MODEL}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_TOKENS
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.endpoint_slots = parameters.endpoint_metrics = True
    parameters.offline = True
    parameters.ui = parameters.warmup = False
    parameters.cache_ram_mib = 0
    server = xllamacpp.Server(parameters)
    written = directory / "address.new"
    written.write_text(server.listening_address)
    written.rename(directory / "address")
    sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
