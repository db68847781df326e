"""`captioned` in four steps: a LoRA by consistency distillation in four phases; it ships as the adapter `few_steps`.

    jaxdiff train captioned_few_steps --base captioned
    jaxdiff sample runs/captioned_few_steps "a small red seven on a blue background"
    jaxdiff sample captioned "4" --lora runs/captioned_few_steps/adapter.safetensors

Forty minutes of training on two cores of an AMD EPYC, beside other work. In four steps it then draws the right digit in
97.2% of 500 images of combinations that it was never shown, as the base does in 50 (docs/latent.md).
"""

from jaxdiff.config import Config, Data, FewSteps, Optim, Sample, Train


def get_config() -> Config:
    """Corrections of rank 32 of the kernels of all blocks; the guidance of 3 is learned."""
    return Config(
        name="captioned_few_steps",
        data=Data(source="captioned", image_shape=(32, 32, 3)),
        adapt=FewSteps(base="captioned", rank=64, targets="block", guidance=3.0, intervals=24, phases=4),
        optim=Optim(method="muon", learning_rate=3e-3, warmup=50, decay_to=0.02, ema_decay=0.99),
        train=Train(steps=1800, batch_size=64, steps_per_call=10, log_every=50, sample_every=0, save_every=200),
        sample=Sample(
            sampler="lcm",
            prompts=(
                "a small red seven on a blue background",
                "a photo of a green 3 on white, top left",
                "a large purple two on a yellow background, in the middle",
                "eight in white on black",
            ),
            steps=4,
            guidance=1.0,
            clip=False,
            num=16,
            batch_size=16,
        ),
    )
