"""Makes tokenizer.json: what transformers' CLIPTokenizer says of texts, with a small vocabulary.

pip install -e ".[peers]" && python tests/golden/make_tokenizer.py
"""

import json
import tempfile
from pathlib import Path

import transformers

from jaxdiff.text import tokenizer

LEARNED = (
    "A photo of a red seven on a blue background, it's not what we'd've thought: 3 small, 45 large. An über-naïve café!"
)
TEXTS = [
    "",
    "a photo of a red seven on a blue background",
    "A  PHOTO\tof a\nRed Seven!",
    "it's what we'd've thought, isn't it? They'll say I'm 10 of 365",
    "naïve café über straße İstanbul",
    "nai\u0308ve cafe\u0301",  # combining signs, which NFC puts together
    "日本語のテキスト 👍🏽 №½ x²",
    "snake_case --flag=1e-3 a/b\\c <tag> #hash @you (x) [y] {z}",
    "'s 't 're 've 'm 'll 'd 'S don''t",
    "word" * 60,
]


def main():
    learned = tokenizer.train([LEARNED] * 3, vocab_size=700, length=20)
    said = json.loads(tokenizer.to_json(learned))
    found = {"vocab": said["vocab"], "merges": said["merges"], "texts": TEXTS}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), said)
        theirs = transformers.CLIPTokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt")
        of = theirs(TEXTS, padding="max_length", max_length=20, truncation=True)
        found["ids"] = of["input_ids"]
        found["words"] = [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    path = Path(__file__).with_name("tokenizer.json")
    path.write_text(json.dumps(found, ensure_ascii=False) + "\n")
    print(path)


def write(folder, said):
    """A folder as published models have it."""
    (folder / "vocab.json").write_text(json.dumps(said["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in said["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
