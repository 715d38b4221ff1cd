#!/usr/bin/env python3
"""Makes the tiny random-weight models in models/ and what they must answer, in expected/.

Needs torch, transformers, sentence-transformers, tokenizers, safetensors, onnx and onnxscript. Everything is
seeded: the same versions of these libraries give the same files. Run it from any directory, without
arguments; it replaces models/ and expected/. Go reads both through the package in this directory.

expected/NAME.json: {"hidden": dimensions, "rows": token ids of each row, "pooled": pooling modes in order}.
expected/NAME.f32: little-endian float32. First last_hidden_state of every row, computed alone and without
padding, token by token; then, for every mode in order, the pooled and not normalized vector of every row.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import onnx
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules.pooling import Pooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
MODELS, EXPECTED = HERE / "models", HERE / "expected"

HIDDEN, LAYERS, INTERMEDIATE, POSITIONS = 32, 2, 64, 64
ROW_LENGTHS = [1, 2, 5, 5, 9, 17, 33, 60]

# The name that our configuration has for a mode, and sentence-transformers'.
MODES = {
    "cls": "cls",
    "mean": "mean",
    "last": "lasttoken",
    "max": "max",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean",
}

CORPUS = """
the quick brown fox jumps over the lazy dog while a slow river runs to the sea and the old town sleeps
a node that can answer takes the request and a node that cannot answer hands it to another node near by
search for a short text in many long texts and give back those that mean the same thing in other words
numbers like 0 1 2 3 4 5 6 7 8 9 and signs like . , ; : ! ? ( ) - are tokens of their own
der schnelle braune fuchs springt über den faulen hund und la rivière coule vers la mer
"""

TEXTS = [
    "the quick brown fox",
    "a node that can answer takes the request.",
    "Numbers: 42 and 7!",
    "la rivière coule vers la mer",
    "unbekannte wörter zerfallen in stücke",
]


def words():
    """The words of CORPUS, most frequent first, then by name."""
    count = {}
    for w in CORPUS.lower().split():
        count[w] = count.get(w, 0) + 1
    return sorted(count, key=lambda w: (-count[w], w))


def wordpiece():
    chars = sorted({c for w in words() for c in w} | set("abcdefghijklmnopqrstuvwxyz0123456789'"))
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + chars + ["##" + c for c in chars]
    vocab += [w for w in words() if len(w) > 1]
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocab)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    t.decoder = decoders.WordPiece()
    t.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return t, dict(unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")


def byte_bpe():
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(
        CORPUS.strip().split("\n"),
        trainers.BpeTrainer(
            vocab_size=360,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return t, dict(unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", mask_token="<mask>")


def unigram():
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(s, 0.0) for s in specials]
    total = sum(CORPUS.lower().split().count(w) for w in words())
    for w in words():
        pieces.append(("▁" + w, float(np.log(CORPUS.lower().split().count(w) / total))))
    pieces += [(c, -9.0 - i / 64) for i, c in enumerate(sorted(set(CORPUS.lower()) - set(" \n") | set("▁bcqxyzäöü")))]
    pieces.append(("<mask>", 0.0))
    t = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    t.add_special_tokens(specials + ["<mask>"])
    return t, dict(unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", mask_token="<mask>")


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def randomize(model, seed):
    """Weights large enough for attention and activations to matter; the usual 0.02 makes a nearly linear model."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            r = torch.randn(p.shape, generator=g)
            norm = "LayerNorm" in name or "layer_norm" in name
            if norm and name.endswith("weight"):
                p.copy_(1 + 0.2 * r)
            elif name.endswith("bias"):
                p.copy_(0.2 * r)
            else:
                p.copy_(0.3 * r)


def bert(vocab, **kw):
    return transformers.BertModel(
        transformers.BertConfig(
            vocab_size=vocab, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=kw.pop("heads", 4),
            intermediate_size=INTERMEDIATE, max_position_embeddings=POSITIONS, pad_token_id=0, **kw,
        ),
        add_pooling_layer=False,
    )


def roberta(cls, config, vocab, **kw):
    return cls(
        config(
            vocab_size=vocab, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4,
            intermediate_size=INTERMEDIATE, max_position_embeddings=POSITIONS, pad_token_id=1, bos_token_id=0,
            eos_token_id=2, type_vocab_size=1, layer_norm_eps=1e-5, **kw,
        ),
        add_pooling_layer=False,
    )


def distilbert(vocab, **kw):
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=vocab, dim=HIDDEN, n_layers=LAYERS, n_heads=2, hidden_dim=INTERMEDIATE,
            max_position_embeddings=POSITIONS, pad_token_id=0, **kw,
        )
    )


OLD_TYPES = [
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
]
NEW_TYPES = [
    ("", "sentence_transformers.base.modules.transformer.Transformer"),
    ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
    ("2_Normalize", "sentence_transformers.base.modules.normalize.Normalize"),
]


def old_pooling(mode):
    """The keys of sentence-transformers before pooling_mode, for one of MODES."""
    keys = {
        "cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens",
        "weightedmean": "weightedmean_tokens", "last": "lasttoken",
    }
    return {"word_embedding_dimension": HIDDEN} | {"pooling_mode_" + k: m == mode for m, k in keys.items()}


def write_model(name, model, tokenizer, names, modules, pooling, max_tokens, extra=None, prefix=None):
    """Writes a model directory in the layout of sentence-transformers and gives its path."""
    d = MODELS / name
    d.mkdir(parents=True)
    model.save_pretrained(d)
    if prefix:
        from safetensors.torch import load_file, save_file

        tensors = load_file(d / "model.safetensors")
        save_file({prefix + k: v for k, v in tensors.items()}, d / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(d / "tokenizer.json"), pretty=False)
    write_json(
        d / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**30} | names,
    )
    write_json(d / "modules.json", [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(modules)])
    write_json(d / "1_Pooling" / "config.json", pooling)
    write_json(d / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    if extra:
        write_json(d / "config_sentence_transformers.json", extra)
    return d


def rows(vocab, first, seed):
    rng = np.random.default_rng(seed)
    return [[int(i) for i in rng.integers(first, vocab, n)] for n in ROW_LENGTHS]


def pool(hidden, mask):
    """Vectors of every mode by sentence-transformers' own module."""
    out = {}
    for ours, theirs in MODES.items():
        features = {"token_embeddings": hidden, "attention_mask": mask}
        out[ours] = Pooling(hidden.shape[-1], pooling_mode=theirs)(features)["sentence_embedding"]
    return out


def write_expected(name, model, ids, pad):
    hidden, pooled = [], {m: [] for m in MODES}
    with torch.no_grad():
        for row in ids:
            mask = torch.ones(1, len(row), dtype=torch.int64)
            h = model(input_ids=torch.tensor([row]), attention_mask=mask).last_hidden_state
            hidden.append(h[0].numpy())
            for m, v in pool(h, mask).items():
                pooled[m].append(v[0].numpy())
        # All rows in one padded batch must give the same: else the reference itself depends on padding.
        longest = max(map(len, ids))
        batch = torch.tensor([r + [pad] * (longest - len(r)) for r in ids])
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in ids])
        h = model(input_ids=batch, attention_mask=mask).last_hidden_state
        for i, row in enumerate(ids):
            assert np.abs(h[i, : len(row)].numpy() - hidden[i]).max() < 2e-5, (name, i)
        for m, v in pool(h, mask).items():
            assert np.abs(v.numpy() - np.stack(pooled[m])).max() < 1e-4, (name, m)
    EXPECTED.mkdir(exist_ok=True)
    (EXPECTED / f"{name}.json").write_text(
        json.dumps({"hidden": HIDDEN, "rows": ids, "pooled": list(MODES)}) + "\n"
    )
    flat = np.concatenate([h.ravel() for h in hidden] + [np.concatenate(pooled[m]) for m in MODES])
    (EXPECTED / f"{name}.f32").write_bytes(flat.astype("<f4").tobytes())


def write_golden(d):
    """Texts and vectors by sentence-transformers over the finished directory, tokenizer and all."""
    st = SentenceTransformer(str(d), device="cpu")
    vectors = st.encode(TEXTS, batch_size=1)
    assert vectors.shape == (len(TEXTS), HIDDEN), vectors.shape
    golden = {"texts": TEXTS, "vectors": [[round(float(x), 8) for x in v] for v in vectors]}
    (d / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


class WithPooling(torch.nn.Module):
    """A graph that pools by itself, as some exports do: outputs token_embeddings and sentence_embedding."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        h = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        m = attention_mask.unsqueeze(-1).to(h.dtype)
        v = (h * m).sum(1) / m.sum(1).clamp(min=1e-9)
        return h, torch.nn.functional.normalize(v, dim=-1)


class WithTypes(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def export(module, path, inputs, outputs, external):
    """Exports by torch, with sizes of batch and sequence left open."""
    ids = torch.randint(5, 100, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    args = (ids, mask, torch.zeros_like(ids))[: len(inputs)]
    batch, sequence = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("sequence", min=1, max=POSITIONS)
    program = torch.onnx.export(
        module.eval(), args, dynamo=True, input_names=inputs, output_names=outputs, opset_version=18, verbose=False,
        dynamic_shapes=tuple({0: batch, 1: sequence} for _ in inputs),
    )
    proto = program.model_proto
    strip(proto.graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not external:
        onnx.save(proto, path)
        return
    onnx.save(
        proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=path.name + "_data", size_threshold=256
    )


def strip(graph):
    """Removes what names files and lines of the machine that exported."""
    del graph.metadata_props[:]
    for n in graph.node:
        n.doc_string = ""
        del n.metadata_props[:]
    for v in list(graph.value_info) + list(graph.input) + list(graph.output) + list(graph.initializer):
        v.doc_string = ""
        if hasattr(v, "metadata_props"):
            del v.metadata_props[:]


def main():
    for d in (MODELS, EXPECTED):
        shutil.rmtree(d, ignore_errors=True)
    torch.manual_seed(0)
    wp, wp_names = wordpiece()
    bpe, bpe_names = byte_bpe()
    uni, uni_names = unigram()

    def make(name, model, seed, tokenizer, names, *args, **kw):
        randomize(model, seed)
        model.eval()
        d = write_model(name, model, tokenizer, names, *args, **kw)
        vocab = model.config.vocab_size
        write_expected(name, model, rows(vocab, 5, seed), model.config.pad_token_id)
        return d

    m = bert(wp.get_vocab_size())
    d = make("bert", m, 1, wp, wp_names, OLD_TYPES, old_pooling("mean"), 48)
    write_golden(d)
    ids = rows(m.config.vocab_size, 5, 1)

    d = make(
        "bert-gelu-new", bert(wp.get_vocab_size(), hidden_act="gelu_new", heads=8), 2, wp, wp_names,
        NEW_TYPES[:2], {"embedding_dimension": HIDDEN, "pooling_mode": "max", "include_prompt": True}, 64, prefix="bert.",
    )
    d = make(
        "roberta", roberta(transformers.RobertaModel, transformers.RobertaConfig, bpe.get_vocab_size()), 3, bpe, bpe_names,
        NEW_TYPES, {"embedding_dimension": HIDDEN, "pooling_mode": "cls", "include_prompt": True}, 128,
    )
    write_golden(d)
    d = make(
        "xlm-roberta", roberta(transformers.XLMRobertaModel, transformers.XLMRobertaConfig, uni.get_vocab_size()), 4,
        uni, uni_names, OLD_TYPES, old_pooling("mean"), 60,
        extra={"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "passage"}, prefix="roberta.",
    )
    write_golden(d)
    make(
        "distilbert", distilbert(wp.get_vocab_size(), activation="relu"), 5, wp, wp_names, OLD_TYPES[:2],
        old_pooling("last"), 64,
    )

    # The weights of "bert" again, as ready-made graphs: one with its data in a second file and token types as
    # an input, one that pools and normalizes by itself.
    for name in ("onnx-external", "onnx-sentence"):
        shutil.copytree(MODELS / "bert", MODELS / name)
        (MODELS / name / "model.safetensors").unlink()
        write_expected(name, m, ids, 0)
    m.set_attn_implementation("eager")
    export(
        WithTypes(m), MODELS / "onnx-external/onnx/model.onnx", ["input_ids", "attention_mask", "token_type_ids"],
        ["last_hidden_state"], external=True,
    )
    export(
        WithPooling(m), MODELS / "onnx-sentence/model.onnx", ["input_ids", "attention_mask"],
        ["token_embeddings", "sentence_embedding"], external=False,
    )
    size = sum(p.stat().st_size for d in (MODELS, EXPECTED) for p in d.rglob("*") if p.is_file())
    print(f"{size} bytes in {MODELS} and {EXPECTED}", file=sys.stderr)


if __name__ == "__main__":
    main()
