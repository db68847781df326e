"""CLIP's tokenizer: byte-pair encoding within words, padded to a fixed length (Radford et al. 2021, section 2.4).

(1)  [start] w_1 ... w_n [end] [pad] ... [pad],   L token ids in all; longer texts are truncated before the end token
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tokenizers
from etils import epath
from tokenizers import models, normalizers, pre_tokenizers, trainers

from jaxdiff.arguments import check_count, check_text
from jaxdiff.files import read_json, read_text
from jaxdiff.paths import as_path, check_path

START, END = "<|startoftext|>", "<|endoftext|>"
PRIVATE = "\ue000"  # a sign of no script, which texts do not hold
# OpenAI's pattern: English contractions, runs of letters, single digits, runs of other characters.
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Tokenizer that turns texts into token ids of one length, equation (1).

    Two are equal, and have one hash, if their models serialize to the same JSON and length and pad id agree. Tokenizers are
    therefore static structure in a pytree: models with equal ones share compilations.

    Attributes:
      model: of the `tokenizers` library, with the tokens START and END; not to be changed in place.
      length: L.
      pad_id: id of the padding token: that of END in Stable Diffusion 1, that of "!" (0) in 2.
      groups: tokens that are read as several: the id of the first, and the number of ids from there on.

    Example::

        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven", "a blue one"], vocab_size=600, length=6)
        >>> ids = [tokens.start_id, *tokens.token_ids("a red one"), tokens.end_id, tokens.pad_id]
        >>> tokens(["a red one"]).tolist() == [ids]
        True
        >>> again = tokenizer.from_json(tokenizer.to_json(tokens))
        >>> again == tokens, hash(again) == hash(tokens)
        (True, True)
    """

    model: tokenizers.Tokenizer
    length: int
    pad_id: int
    groups: tuple[tuple[int, int], ...] = ()

    @functools.cached_property
    def _value(self) -> tuple:
        """Content of the tokenizer; digested once, as the model's JSON has megabytes."""
        return hashlib.sha256(self.model.to_str().encode()).digest(), self.length, self.pad_id, self.groups

    def __eq__(self, other):
        return isinstance(other, Tokenizer) and (self is other or self._value == other._value)

    def __hash__(self):
        return hash(self._value)

    @property
    def start_id(self) -> int:
        """Id of the token that begins every text."""
        return self.model.token_to_id(START)

    @property
    def end_id(self) -> int:
        """Id of the token that ends every text; CLIP pools its features there."""
        return self.model.token_to_id(END)

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        return self.model.get_vocab_size()

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text, without start and end tokens, padding and truncation."""
        return [part for token in self._encode("text", text).ids for part in self._parts(token)]

    def _encode(self, name, text):
        return self.model.encode(check_text(name, text), add_special_tokens=False)

    def _parts(self, token):
        """The ids that a token is read as."""
        return range(token, token + dict(self.groups).get(token, 1))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids of texts; those that are too long are truncated, see `truncation`.

        Args:
          texts: any number B, also empty ones.

        Returns:
          int32 [B, length].

        Raises:
          ValueError: one text in place of several, or something that is no text.
        """
        if isinstance(texts, str | bytes) or not isinstance(texts, Sequence | np.ndarray):
            raise ValueError(f"`texts` must be a list of texts, not {type(texts).__name__}")
        rows = np.full((len(texts), self.length), self.pad_id, np.int32)
        for row, text in zip(rows, texts):
            ids = self.token_ids(text)[: self.length - 2]
            row[: len(ids) + 2] = [self.start_id, *ids, self.end_id]
        return rows

    def truncation(self, text: str) -> tuple[str, str] | None:
        """The part of a text that fits and the part that is cut off; None if all of it fits."""
        encoding = self._encode("text", text)
        read = np.cumsum([len(self._parts(token)) for token in encoding.ids])
        if not len(read) or read[-1] <= self.length - 2:
            return None
        end = encoding.offsets[int(np.argmax(read > self.length - 2))][0]
        return text[:end], text[end:]

    def positions(self, text: str, word: str) -> list[int]:
        """Positions of a word's tokens in a text's row of token ids, in which the start token has position 0.

        Args:
          text: any text.
          word: of one or several tokens; all of its occurrences count.

        Raises:
          ValueError: the text does not contain the word, or only in the part that is cut off.
        """
        ids, wanted = self.token_ids(text), self.token_ids(word)
        starts = [i for i in range(len(ids) - len(wanted) + 1) if ids[i : i + len(wanted)] == wanted]
        found = [1 + start + i for start in starts for i in range(len(wanted))]
        found = [position for position in found if position < self.length - 1]
        if not found:
            raise ValueError(f"{text!r} does not contain {word!r} in its first {self.length - 2} tokens")
        return found


def load(folder: epath.PathLike, length: int = 77) -> Tokenizer:
    """Loads a tokenizer in the format in which CLIP and Stable Diffusion publish theirs.

    Args:
      folder: with vocab.json and merges.txt, or with tokenizer.json; the padding token is read from special_tokens_map.json
        or else tokenizer_config.json, and is END without both.
      length: L.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: they are not those of a CLIP tokenizer.
    """
    folder = as_path(check_path("`folder`", folder))
    whole = folder / "tokenizer.json"  # all that transformers 5 writes
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).exists() and not whole.exists():
            raise FileNotFoundError(f"{folder} has no {name}: give the folder 'tokenizer' of a published model")
    configs = [folder / name for name in ("tokenizer_config.json", "special_tokens_map.json")]
    try:
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            vocab = read_json(folder / "vocab.json")
            lines = read_text(folder / "merges.txt").splitlines()
            merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        else:
            model = read_json(whole)["model"]
            pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
            vocab, merges = model["vocab"], [tuple(pair) for pair in pairs]
        added = _added(folder, vocab)
        contents = [read_json(config) for config in configs if config.exists()]
        pad = [END, *(content["pad_token"] for content in contents if content.get("pad_token"))][-1]
        tokenizer = _tokenizer(vocab, merges, length, pad["content"] if isinstance(pad, dict) else pad)
        return with_new_tokens(tokenizer, added)
    except Exception as error:  # the type of the library's own errors
        raise ValueError(f"{folder} holds no CLIP tokenizer ({error})") from error


def _added(folder, vocab):
    """Tokens that were added to a published vocabulary, in the order of their ids, which follow it."""
    added, whole, plain = {}, folder / "tokenizer.json", folder / "added_tokens.json"
    if whole.exists():
        added = {token["content"]: token["id"] for token in read_json(whole).get("added_tokens", ())}
    added |= read_json(plain) if plain.exists() else {}
    added = {token if token in vocab else token.lower(): i for token, i in added.items()}  # texts are in small letters
    tokens = sorted(added.keys() - vocab.keys(), key=added.get)
    if [added[token] for token in tokens] != list(range(len(vocab), len(vocab) + len(tokens))):
        raise ValueError(f"the ids of its added tokens {tokens} do not follow the {len(vocab)} of the vocabulary")
    return tokens


def train(texts: Iterable[str], vocab_size: int, length: int) -> Tokenizer:
    """Trains a tokenizer of the same kind; it encodes any text, if need be byte by byte.

    Its first 514 tokens are single bytes, bytes at the end of a word, START and END.

    Args:
      texts: training texts.
      vocab_size: largest number of tokens.
      length: L.

    Raises:
      ValueError: a vocabulary of fewer than 514 tokens, a length below 3, or something that is no text.
    """
    vocab_size, length = check_count("vocab_size", vocab_size), check_count("length", length)
    if vocab_size < 514 or length < 3:
        raise ValueError(f"`vocab_size`={vocab_size} must be at least 514, and `length`={length} at least 3")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = _with_rules(models.BPE(end_of_word_suffix="</w>"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    if isinstance(texts, str | bytes):
        raise ValueError(f"`texts` must be several texts, not one, of type {type(texts).__name__}")
    model.train_from_iterator((check_text("texts", text) for text in texts), trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges][: vocab_size - 514]
    tokens = [*alphabet, *(f"{char}</w>" for char in alphabet), START, END]
    tokens = list(dict.fromkeys([*tokens, *("".join(pair) for pair in merges)]))
    return _tokenizer({token: i for i, token in enumerate(tokens)}, merges, length, END)


def with_new_tokens(tokenizer: Tokenizer, new_tokens: Sequence[str] | Mapping[str, int]) -> Tokenizer:
    """The same tokenizer with new tokens, whose ids follow the last one.

    Args:
      tokenizer: any.
      new_tokens: such as "<star>", without capitals and spaces. Every occurrence in a text becomes this token, also within
        a word. A mapping gives the number of tokens that each is read as.

    Raises:
      ValueError: a new token that is empty, has capitals or spaces, or is in the vocabulary already.

    Example::

        >>> from jaxdiff.text import tokenizer
        >>> tokens = tokenizer.train(["a red seven", "a blue one"], vocab_size=600, length=6)
        >>> more = tokenizer.with_new_tokens(tokens, ["<star>"])
        >>> more.token_ids("a red <star>") == [*tokens.token_ids("a red"), tokens.vocab_size]
        True
    """
    model, groups = tokenizers.Tokenizer.from_str(tokenizer.model.to_str()), dict(tokenizer.groups)
    if isinstance(new_tokens, str | bytes):
        raise ValueError(f"`new_tokens` must be a list of tokens, not {type(new_tokens).__name__}")
    counts = dict(new_tokens) if isinstance(new_tokens, Mapping) else dict.fromkeys(new_tokens, 1)
    for token, count in counts.items():
        check_count(f"new_tokens[{check_text('new_tokens', token)!r}]", count)
        if not token or re.search(r"\s", token) or token != token.lower():
            raise ValueError(f"the new token {token!r} must be without spaces and capitals, such as <star>")
        if {model.token_to_id(token), model.token_to_id(f"{token}</w>")} != {None}:
            other = f"<{token.strip('<>')}>"
            other = other if other != token else f"{token[:-1]}2>"
            raise ValueError(f"{token!r} is a token already: give its adapter once, or choose another, such as {other}")
        model.add_tokens([tokenizers.AddedToken(token, normalized=True)])
        if count > 1:
            groups[model.token_to_id(token)] = count
            rest = [f"{PRIVATE}{token}{PRIVATE}{i}" for i in range(1, count)]  # which only take up the ids
            model.add_tokens([tokenizers.AddedToken(one, normalized=True) for one in rest])
    return dataclasses.replace(tokenizer, model=model, groups=tuple(groups.items()))


def to_json(tokenizer: Tokenizer) -> str:
    """Serializes a tokenizer as JSON; `from_json` is the inverse."""
    whole = json.loads(tokenizer.model.to_str())
    added = [token["content"] for token in sorted(whole["added_tokens"], key=lambda token: token["id"])]
    content = {"vocab": whole["model"]["vocab"], "merges": whole["model"]["merges"], "length": tokenizer.length}
    content |= {"fill": tokenizer.model.id_to_token(tokenizer.pad_id)}
    content |= {"words": added} if added else {}
    return json.dumps(content | ({"groups": tokenizer.groups} if tokenizer.groups else {}))


def from_json(text: str) -> Tokenizer:
    """Inverse of `to_json`.

    Raises:
      ValueError: the text is not the JSON of a tokenizer.
    """
    try:
        content = json.loads(text)
        merges = [tuple(pair) for pair in content["merges"]]
        tokenizer = _tokenizer(content["vocab"], merges, content["length"], content["fill"])
        groups = tuple((first, count) for first, count in content.get("groups", ()))
        return dataclasses.replace(with_new_tokens(tokenizer, content.get("words", ())), groups=groups)
    except Exception as error:  # the type of the library's own errors
        raise ValueError(f"this is no tokenizer ({error})") from error


def _tokenizer(vocab, merges, length, pad):
    missing = [token for token in (START, END, pad) if token not in vocab]
    if missing:
        raise ValueError(f"its vocabulary lacks {missing[0]}")
    model = models.BPE(vocab, merges, unk_token=END, end_of_word_suffix="</w>")
    return Tokenizer(_with_rules(model), length, vocab[pad])


def _with_rules(model: models.BPE) -> tokenizers.Tokenizer:
    """Adds the rules before byte-pair encoding: single spaces, lower case, and a split into words."""
    tokenizer = tokenizers.Tokenizer(model)
    space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
    split = pre_tokenizers.Split(tokenizers.Regex(WORD), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer
