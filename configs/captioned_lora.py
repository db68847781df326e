"""A new glyph for `captioned` from twenty images of it: a LoRA and a new word.

    python benchmarks/glyphs.py star --out glyphs/star
    jaxdiff train captioned_lora --data.source folder:glyphs/star
    jaxdiff sample captioned "a red <star> on a blue background" --lora runs/captioned_lora/adapter.safetensors

Another glyph has another word: --adapt.new.tokens "<heart>" and --sample.prompts "a red <heart> on a blue background".
"""

from jaxdiff.config import Config, Data, LoRA, NewTokens, Optim, Prior, Sample, Train
from jaxdiff.data.sources import captioned


def get_config() -> Config:
    """Corrections of rank 1 of all kernels but those of the time, and the word <star>; digits are learned beside it."""
    return Config(
        name="captioned_lora",
        data=Data(source="folder:glyphs/star", image_shape=(32, 32, 3)),
        adapt=LoRA(
            base="captioned",
            rank=1,
            alpha=2.0,
            targets="attention+convolutions+feed_forward",
            new=NewTokens(("<star>",), initial=("seven",)),
            prior=Prior(tuple(captioned.prompts(200)[0]), weight=1.5),
        ),
        optim=Optim(method="muon", learning_rate=1e-2, warmup=20, decay_to=0.02, ema_decay=0.99),
        train=Train(steps=1200, batch_size=32, steps_per_call=10, log_every=50, sample_every=0, save_every=200),
        sample=Sample(
            prompts=(
                "a red <star> on a blue background",
                "a small white <star> on a green background, top left",
                "a photo of a black <star> on yellow, bottom right",
                "a large yellow <star> on a purple background, in the middle",
            ),
            guidance=3.0,
            steps=50,
            clip=False,
            num=16,
            batch_size=16,
        ),
    )
