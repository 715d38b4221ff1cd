"""OpenAI's Python client, unmodified, against AKIDB_URL. Prints "ok ..." or "FAIL ..." for each check."""

import asyncio
import base64
import math
import os
import struct
import sys

import openai

url = os.environ["AKIDB_URL"] + "/v1"
key = os.environ.get("AKIDB_API_KEY", "none-needed")
client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)
model = os.environ.get("AKIDB_MODEL") or client.models.list().data[0].id
failed = 0


def check(name):
    def run(function):
        global failed
        try:
            function()
            print("ok   python:", name)
        except Exception as e:  # every failure is a result
            failed += 1
            print(f"FAIL python: {name}: {type(e).__name__}: {e}")

    return run


def embed(texts, **options):
    return client.embeddings.create(model=options.pop("model", model), input=texts, **options)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


def raises(error, status, call, message=""):
    try:
        call()
    except error as e:
        assert type(e) is error, f"raised {type(e).__name__}, want {error.__name__}"
        assert e.status_code == status, f"status {e.status_code}, want {status}"
        # The client finds these only if the body has the shape it knows.
        assert e.body and e.body["message"] and e.type and e.code, f"body is {e.body}"
        assert message in e.body["message"], f"message is {e.body['message']!r}, want in it {message!r}"
        return e
    raise AssertionError(f"{error.__name__} was not raised")


@check("list and retrieve models")
def _():
    ids = [m.id for m in client.models.list()]
    assert model in ids, ids
    m = client.models.retrieve(model)
    assert m.id == model and m.object == "model" and m.owned_by, m


@check("single text")
def _():
    r = embed("hello world")
    assert r.object == "list" and len(r.data) == 1 and r.data[0].index == 0, r
    v = r.data[0].embedding
    assert len(v) >= 2 and all(isinstance(x, float) and math.isfinite(x) for x in v)
    assert r.usage.prompt_tokens > 0 and r.usage.total_tokens == r.usage.prompt_tokens, r.usage


@check("batch equals single, in order")
def _():
    texts = ["one", "two words", "three words here", "Grüße, 世界 🌍"]
    r = embed(texts)
    assert [d.index for d in r.data] == [0, 1, 2, 3]
    for text, d in zip(texts, r.data):
        assert cosine(embed(text).data[0].embedding, d.embedding) > 0.9999, text
    assert cosine(r.data[0].embedding, r.data[3].embedding) < 0.999, "different texts gave the same vector"


@check("base64 and float are equal")
def _():
    floats = embed("the same", encoding_format="float").data[0].embedding
    raw = embed("the same", encoding_format="base64").data[0].embedding
    data = base64.b64decode(raw) if isinstance(raw, str) else None
    values = list(struct.unpack(f"<{len(data) // 4}f", data)) if data is not None else list(raw)
    default = embed("the same").data[0].embedding  # the client asks for base64 and decodes it
    as32 = [struct.unpack("<f", struct.pack("<f", x))[0] for x in floats]
    assert len(floats) == len(values) == len(default)
    assert cosine(as32, values) > 0.9999 and cosine(list(default), values) > 0.9999
    assert max(abs(a - b) for a, b in zip(as32, values)) < 1e-5


@check("dimensions")
def _():
    full = embed("cut me", encoding_format="float").data[0].embedding
    n = len(full) // 2
    cut = embed("cut me", dimensions=n).data[0].embedding
    assert len(cut) == n
    assert abs(sum(x * x for x in cut) - 1) < 1e-3, "the shortened vector is not normalized"


@check("headers of the raw answer")
def _():
    raw = client.embeddings.with_raw_response.create(model=model, input="x", extra_headers={"x-request-id": "py-1"})
    h = raw.headers
    assert h["x-akidb-node"] and h["x-akidb-region"] and h["x-akidb-route"] in ("local", "forwarded"), dict(h)
    assert "@" in h["x-akidb-model"] and h["server-timing"] and h["x-request-id"] == "py-1", dict(h)


@check("user and extra fields are taken")
def _():
    assert embed("x", user="me", extra_body={"normalize": True, "metadata": {"a": [1]}}).data


@check("async client")
def _():
    async def run():
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as c:
            answers = await asyncio.gather(*(c.embeddings.create(model=model, input=f"text {i}") for i in range(8)))
        assert all(len(a.data) == 1 for a in answers)

    asyncio.run(run())


@check("BadRequestError: empty list")
def _():
    raises(openai.BadRequestError, 400, lambda: embed([]), "got 0")


@check("BadRequestError: empty string")
def _():
    e = raises(openai.BadRequestError, 400, lambda: embed(["a", ""]), "input[1]")
    assert e.param == "input", e.param


@check("BadRequestError: 2049 inputs")
def _():
    raises(openai.BadRequestError, 400, lambda: embed(["a"] * 2049), "got 2049")


@check("BadRequestError: token ids")
def _():
    raises(openai.BadRequestError, 400, lambda: embed([[1, 2, 3]]), "check_embedding_ctx_length=False")


@check("BadRequestError: too many dimensions")
def _():
    raises(openai.BadRequestError, 400, lambda: embed("x", dimensions=100000), "100000")


@check("NotFoundError: unknown model")
def _():
    e = raises(openai.NotFoundError, 404, lambda: embed("x", model="no-such-model"), "no-such-model")
    assert e.code == "model_not_found", e.code
    raises(openai.NotFoundError, 404, lambda: client.models.retrieve("no-such-model"))


@check("NotFoundError: unknown route")
def _():
    raises(openai.NotFoundError, 404, lambda: client.moderations.create(input="x"))


if os.environ.get("AKIDB_API_KEY"):

    @check("AuthenticationError: wrong key")
    def _():
        wrong = openai.OpenAI(base_url=url, api_key="wrong-key-wrong-key", max_retries=0)
        raises(openai.AuthenticationError, 401, lambda: wrong.embeddings.create(model=model, input="x"))


if os.environ.get("AKIDB_FAULTS") == "1":

    @check("RateLimitError: overloaded")
    def _():
        e = raises(openai.RateLimitError, 429, lambda: embed("x", model="fault-overloaded"))
        assert int(e.response.headers["retry-after"]) >= 1

    @check("InternalServerError: unavailable, deadline, internal")
    def _():
        for name, status in ("unavailable", 503), ("deadline", 504), ("internal", 500):
            raises(openai.InternalServerError, status, lambda: embed("x", model="fault-" + name))

    @check("the client retries what is overloaded")
    def _():
        raises(openai.RateLimitError, 429, lambda: client.with_options(max_retries=1).embeddings.create(model="fault-overloaded", input="x"))


sys.stdout.flush()
sys.exit(0)
