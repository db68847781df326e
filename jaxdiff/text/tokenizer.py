"""CLIP's tokenizer: byte pairs within words, texts of one length (Radford et al. 2021, section 2.4).

(1)  [start] w_1 ... w_n [end] [fill] ... [fill],   L tokens in all; what is longer is cut before the end
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from etils import epath
from tokenizers import models, normalizers, pre_tokenizers, trainers

START, END = "<|startoftext|>", "<|endoftext|>"
# OpenAI's pattern: English contractions, runs of letters, single digits, runs of other signs.
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Texts as tokens of one length, equation (1).

    Attributes:
      model: of the `tokenizers` library, which knows START and END.
      length: L.
      pad_id: the token that texts are filled up with: END in Stable Diffusion 1, "!" (0) in 2.

    Example::

        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven", "a blue one"], vocab_size=600, length=6)
        >>> ids = [tokens.start_id, *tokens.token_ids("a red one"), tokens.end_id, tokens.pad_id]
        >>> tokens(["a red one"]).tolist() == [ids]
        True
    """

    model: tokenizers.Tokenizer
    length: int
    pad_id: int

    @property
    def start_id(self) -> int:
        """The token that every text begins with."""
        return self.model.token_to_id(START)

    @property
    def end_id(self) -> int:
        """The token at which a text ends, and where the whole of it is read."""
        return self.model.token_to_id(END)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.model.get_vocab_size()

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a text, however long, without start and end."""
        return self.model.encode(text, add_special_tokens=False).ids

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of texts; what does not fit is cut, which `truncation` tells.

        Args:
          texts: any number B, also empty ones.

        Returns:
          int32 [B, length].
        """
        rows = np.full((len(texts), self.length), self.pad_id, np.int32)
        for row, text in zip(rows, texts):
            words = self.token_ids(text)[: self.length - 2]
            row[: len(words) + 2] = [self.start_id, *words, self.end_id]
        return rows

    def truncation(self, text: str) -> tuple[str, str] | None:
        """What of a text is read, and what is not because it is too long; None where all of it is."""
        said = self.model.encode(text, add_special_tokens=False)
        if len(said.ids) <= self.length - 2:
            return None
        at = said.offsets[self.length - 2][0]
        return text[:at], text[at:]

    def positions(self, text: str, word: str) -> list[int]:
        """Where in a text the tokens of a word are, counted from the start token at 0.

        Raises:
          ValueError: the text does not hold the word, or only where it is cut.
        """
        said, wanted = self.model.encode(text, add_special_tokens=False), self.token_ids(word)
        found = [
            start + 1 + i
            for start in range(len(said.ids) - len(wanted) + 1)
            if said.ids[start : start + len(wanted)] == wanted
            for i in range(len(wanted))
        ]
        found = [place for place in found if place < self.length - 1]
        if not found:
            raise ValueError(f"{text!r} does not hold {word!r}, as far as it is read")
        return found


def load(folder: epath.PathLike, length: int = 77) -> Tokenizer:
    """A tokenizer as published with CLIP and Stable Diffusion.

    Args:
      folder: with vocab.json and merges.txt; special_tokens_map.json or else tokenizer_config.json says what texts are
        filled up with, END if neither does.
      length: L.

    Raises:
      FileNotFoundError: the folder lacks one of them.
      ValueError: they are not those of a tokenizer of this kind.
    """
    folder = epath.Path(folder)
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} has no {name}: give the folder 'tokenizer' of a published model")
    configs = [folder / name for name in ("tokenizer_config.json", "special_tokens_map.json")]
    try:
        words = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()
        merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        said = [json.loads(config.read_text()) for config in configs if config.exists()]
        fill = [END, *(one["pad_token"] for one in said if one.get("pad_token"))][-1]
        return _tokenizer(words, merges, length, fill["content"] if isinstance(fill, dict) else fill)
    except Exception as error:  # the library's own errors are of that type
        raise ValueError(f"{folder} holds no tokenizer of CLIP's kind ({error})") from error


def train(texts: Iterable[str], vocab_size: int, length: int) -> Tokenizer:
    """A tokenizer of the same kind, learned from texts; any other text can be said in it, too, byte by byte.

    Its first 514 tokens are bytes, bytes that end a word, START and END.

    Args:
      texts: what it learns from.
      vocab_size: tokens at most.
      length: L.

    Raises:
      ValueError: a size below 514, or a length below 3.
    """
    if vocab_size < 514 or length < 3:
        raise ValueError(f"vocab_size={vocab_size} must be at least 514, and length={length} at least 3")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = _with_rules(models.BPE(end_of_word_suffix="</w>"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges][: vocab_size - 514]
    words = [*alphabet, *(f"{sign}</w>" for sign in alphabet), START, END]
    words = list(dict.fromkeys([*words, *("".join(pair) for pair in merges)]))
    return _tokenizer({word: i for i, word in enumerate(words)}, merges, length, END)


def with_new_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> Tokenizer:
    """The same with new words, each one token, numbered on from the last.

    Args:
      tokenizer: any.
      words: such as "<star>": no capitals and no spaces. Where a text holds one, also inside of a word, it is that token.

    Raises:
      ValueError: it is no such word, or one that is there already.

    Example::

        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven", "a blue one"], vocab_size=600, length=6)
        >>> more = tokenizer.with_new_tokens(tokens, ["<star>"])
        >>> more.token_ids("a red <star>") == [*tokens.token_ids("a red"), tokens.vocab_size]
        True
    """
    model = tokenizers.Tokenizer.from_str(tokenizer.model.to_str())
    for word in words:
        if not word or re.search(r"\s", word) or word != word.lower():
            raise ValueError(f"the new word {word!r} must be without spaces and capitals, such as <star>")
        if {model.token_to_id(word), model.token_to_id(f"{word}</w>")} != {None}:
            raise ValueError(f"{word!r} is a word already: choose another one, such as <{word.strip('<>')}>")
        model.add_tokens([tokenizers.AddedToken(word, normalized=True)])
    return dataclasses.replace(tokenizer, model=model)


def to_json(tokenizer: Tokenizer) -> str:
    """A tokenizer as text; `from_json` is the inverse."""
    whole = json.loads(tokenizer.model.to_str())
    said, fill = whole["model"], tokenizer.model.id_to_token(tokenizer.pad_id)
    said = {"vocab": said["vocab"], "merges": said["merges"], "length": tokenizer.length, "fill": fill}
    words = [token["content"] for token in sorted(whole["added_tokens"], key=lambda token: token["id"])]
    return json.dumps(said | ({"words": words} if words else {}))


def from_json(text: str) -> Tokenizer:
    """Inverse of `to_json`.

    Raises:
      ValueError: it is no such text.
    """
    try:
        said = json.loads(text)
        made = _tokenizer(said["vocab"], [tuple(pair) for pair in said["merges"]], said["length"], said["fill"])
        return with_new_tokens(made, said.get("words", ()))
    except Exception as error:  # the library's own errors are of that type
        raise ValueError(f"this is no tokenizer ({error})") from error


def _tokenizer(words, merges, length, fill):
    missing = [token for token in (START, END, fill) if token not in words]
    if missing:
        raise ValueError(f"its words lack {missing[0]}")
    return Tokenizer(
        _with_rules(models.BPE(words, merges, unk_token=END, end_of_word_suffix="</w>")), length, words[fill]
    )


def _with_rules(model: models.BPE) -> tokenizers.Tokenizer:
    """What happens before the byte pairs: one space between words, no capitals, and words apart."""
    tokenizer = tokenizers.Tokenizer(model)
    space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
    split = pre_tokenizers.Split(tokenizers.Regex(WORD), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer
