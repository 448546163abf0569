"""The tiny world's tokenizer: a sentencepiece BPE model, and the same tokenizer as a Hugging Face tokenizer.json.

The conversion is exact for the texts of this project (one line, single spaces); `train` asserts it.
"""

import io
import json
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.tiny_world.words import ATTRIBUTES, NOUNS, NUMBERS

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")  # ids 0..3
_REQUIRED = string.ascii_letters + string.digits + ".,:;?!#'-"


def every_word(times: int) -> list[str]:
    """Lines with all nouns, values and numbers, so that the rare ones are merged into single tokens too."""
    values = [value for known in ATTRIBUTES.values() for value in known]
    return [" ".join([*NOUNS, *values, *map(str, NUMBERS)])] * times


def train(directory: Path, texts: Sequence[str], vocab_size: int, max_length: int) -> None:
    """Trains on `texts`; writes tokenizer.model, tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=1.0,
        required_chars=_REQUIRED,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=3,
        num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [trained.id_to_piece(i) for i in range(trained.get_piece_size())]
    assert tuple(pieces[: len(SPECIAL)]) == SPECIAL, pieces[:8]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    _write(directory / "tokenizer.json", _hugging_face(pieces))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    _write(
        directory / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_length,
            "clean_up_tokenization_spaces": False,
        },
    )
    _write(directory / "special_tokens_map.json", special)
    check(directory, texts[:2000])


def check(directory: Path, texts: Iterable[str]) -> None:
    """Asserts that both forms give the same ids, and that decoding gives the text back."""
    import sentencepiece
    from tokenizers import Tokenizer

    original = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    converted = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in texts:
        ids = converted.encode(text, add_special_tokens=False).ids
        assert ids == original.encode(text), f"the converted tokenizer differs on {text!r}"
        assert converted.decode(ids) == text, f"decoding loses {text!r}"


def _hugging_face(pieces: list[str]) -> dict[str, Any]:
    """tokenizer.json. Merges are all splits of a piece into two pieces, in the order in which BPE learnt the pieces."""
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces[len(SPECIAL) :]
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **added} for i, token in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": metaspace,
        "post_processor": None,
        "decoder": metaspace,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
