"""A new glyph for `captioned` from twenty images of it: a LoRA and a new word.

python benchmarks/glyphs.py star --out glyphs/star
jaxdiff train captioned_lora --data.source folder:glyphs/star
jaxdiff sample captioned "a red <star> on a blue background" --lora runs/captioned_lora/adapter.safetensors
"""

from jaxdiff.config import Adapt, Config, Data, Optim, Sample, Train

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white", "black")


def get_config() -> Config:
    """Corrections of rank 4 of all attention, and the word <star>, learned from captioned images beside drawn digits."""
    pairs = [(COLOURS[i % 7], digit, COLOURS[(i + 3) % 7]) for i, digit in enumerate(DIGITS * 2)]
    return Config(
        name="captioned_lora",
        data=Data(source="folder:glyphs/star", image_shape=(32, 32, 3)),
        adapt=Adapt(
            base="captioned",
            method="lora",
            rank=4,
            words=("<star>",),
            begin="seven",
            prior=tuple(f"a {colour} {digit} on a {ground} background" for colour, digit, ground in pairs),
        ),
        optim=Optim(learning_rate=3e-3, warmup=20, decay_to=0.02, ema_decay=0.99),
        train=Train(steps=1000, batch_size=32, steps_per_call=10, log_every=50, sample_every=0, save_every=200),
        sample=Sample(
            prompts=("a red <star> on a blue background", "a small white <star> on a green background, top left"),
            guidance=3.0,
            steps=50,
            clip=False,
            num=16,
            batch_size=16,
        ),
    )
