-- What a limiter node does, in nginx's Lua: decides each request by one call of decide.lua, and answers as a node does.
--
-- Per request: bearer key -> SHA-256 -> kid; body parsed as JSON (cjson where it is installed, else by patterns, which
-- is less work); one EVALSHA on a pooled connection (RESP written and read by hand); the node's headers; an answer of
-- constant text. With `settle`, a second call gives back what the answer didn't use, after the response has been sent.
--
-- Left out, to the peer's advantage: tokens are a quarter of the bytes, not counted; the request isn't validated; the
-- mock's answer always has the same text and length; no deadlines, no resending of lost batches, no redirections of a
-- cluster, no streams, metrics or draining.

local ffi = require "ffi"
local has_cjson, cjson = pcall(require, "cjson.safe")

ffi.cdef [[
unsigned char *SHA256(const unsigned char *data, size_t size, unsigned char *digest);
unsigned char *ngx_hex_dump(unsigned char *to, const unsigned char *from, size_t size);

typedef struct __attribute__((packed)) {
    uint64_t number; uint8_t resent; uint16_t width; uint64_t clock_ms;
    uint8_t kind; int64_t a, b, c, d;
} peer_batch; // a batch of one operation: see decide.lua, ARGV 2

typedef struct __attribute__((packed)) {
    uint8_t state; uint64_t time_ms; uint32_t limits[3], used[3]; uint16_t age[3]; uint8_t in_bucket_ms;
    uint32_t output_reserve; uint8_t verdict; uint32_t retry_ms; // the last two where it was rejected, and then its name
} peer_reply; // see decide.lua, Reply
]]

local ADMIT, SETTLE = 1, 2
local BUCKET_MS, WIDTH, NO_USE = 100, 600, 65535
local POOL_SIZE, IDLE_MS, TIMEOUT_MS = 256, 60000, 1000
local CHAT_TOKENS, WORD_BYTES = 7, 5 -- what a chat of one message counts beside its text; an answer's bytes per token
local ANSWER_HEAD_BYTES = 1562 -- of head and body, beside the answer's text

local ADMITTED_SIZE = ffi.offsetof("peer_reply", "verdict")

local digest, hex = ffi.new("unsigned char[32]"), ffi.new("unsigned char[32]")
local batch, reply_type = ffi.new("peer_batch"), ffi.typeof("const peer_reply *")
batch.width = WIDTH

local Peer = {}
Peer.__index = Peer

function Peer.new(settings)
    if not has_cjson then ngx.log(ngx.WARN, "cjson isn't installed: JSON is parsed by patterns, which is less work") end
    local text = string.rep("word ", math.floor((settings.answer_bytes - ANSWER_HEAD_BYTES) / WORD_BYTES))
    return setmetatable({
        store_port = settings.store_port,
        command = "*8\r\n$7\r\nEVALSHA\r\n$40\r\n" .. settings.script_sha .. "\r\n$1\r\n3\r\n$44\r\nrl:{",
        text = text,
        produced = #text / WORD_BYTES,
        number = 0,
        free_callers = {},
        callers = 0,
        request_prefix = string.format("%08x%08x", math.random(0, 2 ^ 31), ngx.time()),
        requests = 0,
    }, Peer)
end

-- One batch of a caller may be under way per key (the script knows the last one by its number), so each request that is
-- under way has a caller of its own.
function Peer:take_caller()
    local caller = table.remove(self.free_callers)
    if not caller then
        self.callers = self.callers + 1
        caller = string.format("nginx%05d", self.callers)
    end
    return caller
end

function Peer:give_back(caller)
    self.free_callers[#self.free_callers + 1] = caller
end

function Peer:call(kid, caller, kind, a, b, c)
    self.number = self.number + 1
    batch.number, batch.kind, batch.a, batch.b, batch.c = self.number, kind, a, b, c
    local packed = ffi.string(batch, ffi.sizeof(batch))

    local socket = ngx.socket.tcp()
    socket:settimeout(TIMEOUT_MS)
    assert(socket:connect("127.0.0.1", self.store_port, { pool_size = POOL_SIZE }))
    assert(socket:send {
        self.command, kid, "}:limits\r\n$44\r\nrl:{", kid, "}:window\r\n$42\r\nrl:{", kid, "}:past\r\n$10\r\n", caller,
        "\r\n$52\r\n", packed, "\r\n",
    })
    local head = assert(socket:receive())
    local size = assert(tonumber(string.match(head, "^%$(%d+)$")), head)
    local reply = assert(socket:receive(size))
    assert(socket:receive(2)) -- CRLF
    socket:setkeepalive(IDLE_MS, POOL_SIZE)
    return reply
end

local function kid_of(authorization)
    local key = string.match(authorization or "", "^[Bb]earer (.+)$")
    if not key then return nil end
    ffi.C.SHA256(key, #key, digest)
    ffi.C.ngx_hex_dump(hex, digest, 16)
    return ffi.string(hex, 32)
end

local function parsed(body) -- model, text, max_tokens; nil unless it is a chat of one message
    if has_cjson then
        local request = cjson.decode(body)
        local message = request and request.messages and request.messages[1]
        if not message then return nil end
        return request.model, message.content, request.max_tokens
    end
    return string.match(body, '"model": ?"([^"]+)"'), string.match(body, '"content": ?"([^"]+)"'),
        tonumber(string.match(body, '"max_tokens": ?(%d+)'))
end

local function duration(ms) -- 12ms, 1s, 1.5s, 6m0s
    if ms < 1000 then return ms .. "ms" end
    local seconds = ms % 60000 / 1000
    return ms < 60000 and seconds .. "s" or math.floor(ms / 60000) .. "m" .. seconds .. "s"
end

local function seconds_up(ms) return math.ceil(ms / 1000) end

local function set_headers(reply, input, output, request_id)
    local left, reset, full_ms = {}, {}, (WIDTH + 1) * BUCKET_MS - reply.in_bucket_ms
    for d = 0, 2 do
        left[d] = math.max(reply.limits[d] - reply.used[d], 0)
        reset[d] = reply.age[d] == NO_USE and 0 or full_ms - reply.age[d] * BUCKET_MS
    end
    local tighter = left[1] <= left[2] and 1 or 2
    local header = ngx.header
    header["x-ratelimit-limit-requests"] = reply.limits[0]
    header["x-ratelimit-remaining-requests"] = left[0]
    header["x-ratelimit-reset-requests"] = duration(reset[0])
    header["x-ratelimit-limit-input-tokens"] = reply.limits[1]
    header["x-ratelimit-remaining-input-tokens"] = left[1]
    header["x-ratelimit-reset-input-tokens"] = duration(reset[1])
    header["x-ratelimit-limit-output-tokens"] = reply.limits[2]
    header["x-ratelimit-remaining-output-tokens"] = left[2]
    header["x-ratelimit-reset-output-tokens"] = duration(reset[2])
    header["x-ratelimit-limit-tokens"] = reply.limits[tighter]
    header["x-ratelimit-remaining-tokens"] = left[tighter]
    header["x-ratelimit-reset-tokens"] = duration(reset[tighter])
    header["RateLimit-Policy"] = '"rpm";q=' .. reply.limits[0] .. ';w=60, "input-tpm";q=' .. reply.limits[1]
        .. ';w=60, "output-tpm";q=' .. reply.limits[2] .. ";w=60"
    header["RateLimit"] = '"rpm";r=' .. left[0] .. ";t=" .. seconds_up(reset[0]) .. ', "input-tpm";r=' .. left[1]
        .. ";t=" .. seconds_up(reset[1]) .. ', "output-tpm";r=' .. left[2] .. ";t=" .. seconds_up(reset[2])
    header["x-limiter-time-ms"] = string.format("%d", tonumber(reply.time_ms))
    header["x-limiter-reserved-output"] = output
    header["x-limiter-node"] = "nginx"
    header["x-request-id"] = "req_" .. request_id
end

local function respond(status, body)
    ngx.status = status
    ngx.header["Content-Length"] = #body
    ngx.print(body)
    ngx.eof()
end

function Peer:answer(settles)
    local kid = kid_of(ngx.var.http_authorization)
    if not kid then return respond(401, '{"error":{"code":"invalid_api_key"}}') end
    ngx.req.read_body()
    local model, text, output = parsed(ngx.req.get_body_data())
    if not (model and text and output) then return respond(400, '{"error":{"code":"invalid_request_error"}}') end
    local input = math.ceil(#text / 4) + CHAT_TOKENS

    local caller = self:take_caller()
    local packed = self:call(kid, caller, ADMIT, input, output, 0)
    local reply = ffi.cast(reply_type, packed)
    if reply.state ~= 0 then
        self:give_back(caller)
        return respond(401, '{"error":{"code":"invalid_api_key"}}')
    end
    self.requests = self.requests + 1
    local request_id = self.request_prefix .. string.format("%08x", self.requests)
    set_headers(reply, input, output, request_id)
    if #packed > ADMITTED_SIZE then
        ngx.header["retry-after-ms"] = reply.retry_ms
        ngx.header["retry-after"] = seconds_up(reply.retry_ms)
        respond(429, '{"error":{"code":"rate_limit_exceeded"}}')
    else
        local produced = math.min(self.produced, output)
        respond(200, '{"id":"chatcmpl-' .. request_id .. '","object":"chat.completion","created":' .. ngx.time()
            .. ',"model":"' .. model .. '","choices":[{"index":0,"message":{"role":"assistant","content":"' .. self.text
            .. '","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":'
            .. input .. ',"completion_tokens":' .. produced .. ',"total_tokens":' .. input + produced
            .. ',"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{'
            .. '"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
            .. '"service_tier":"default","system_fingerprint":"fp_nginx"}')
        if settles then
            self:call(kid, caller, SETTLE, math.floor(tonumber(reply.time_ms) / BUCKET_MS), 0, output - produced)
        end
    end
    self:give_back(caller)
end

return Peer
