"""Textual inversion with `captioned`: a new word for what a few images show, and nothing else.

python benchmarks/glyphs.py star --out glyphs/star
jaxdiff train captioned_textual_inversion --data.source folder:glyphs/star
jaxdiff sample captioned "a red <star> on a blue background" --lora runs/captioned_textual_inversion
"""

from jaxdiff.config import Config, Data, NewTokens, Optim, Sample, TextualInversion, Train


def get_config() -> Config:
    """64 numbers are trained: the embedding of the token <star>."""
    return Config(
        name="captioned_textual_inversion",
        data=Data(source="folder:glyphs/star", image_shape=(32, 32, 3)),
        adapt=TextualInversion(base="captioned", new=NewTokens(("<star>",), initial=("four",))),
        optim=Optim(learning_rate=1e-2, warmup=20, decay_to=0.02, ema_decay=0.9),
        train=Train(steps=300, batch_size=32, steps_per_call=10, log_every=50, sample_every=0, save_every=100),
        sample=Sample(
            prompts=("a red <star> on a blue background", "a small white <star> on a green background, top left"),
            guidance=3.0,
            steps=50,
            clip=False,
            num=16,
            batch_size=16,
        ),
    )
