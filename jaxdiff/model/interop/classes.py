"""Fields of the published classes of networks, with the defaults of each class."""

from jaxdiff.model.interop.fields import Fields

UNET_2D_CONDITION = Fields(
    read={
        "in_channels": 4,
        "out_channels": 4,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "downsample_padding": 1,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "use_linear_projection": False,
        "resnet_time_scale_shift": "default",
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "projection_class_embeddings_input_dim": None,
        "time_cond_proj_dim": None,
    },
    fixed={
        "center_input_sample": False,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "only_cross_attention": False,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "reverse_transformer_layers_per_block": None,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "dual_cross_attention": False,
        "class_embed_type": None,
        "num_class_embeds": None,
        "resnet_skip_time_act": False,
        "resnet_out_scale_factor": 1.0,
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "attention_type": "default",
        "class_embeddings_concat": False,
        "mid_block_only_cross_attention": None,
        "cross_attention_norm": None,
    },
    unused=("upcast_attention", "addition_embed_type_num_heads"),  # scores are float32 anyway
    nullable=("num_attention_heads",),
    several=("layers_per_block", "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim"),
)

UNET_2D = Fields(
    read={
        "in_channels": 3,
        "out_channels": 3,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "down_block_types": ("DownBlock2D",) + ("AttnDownBlock2D",) * 3,
        "up_block_types": ("AttnUpBlock2D",) * 3 + ("UpBlock2D",),
        "mid_block_type": "UNetMidBlock2D",
        "block_out_channels": (224, 448, 672, 896),
        "layers_per_block": 2,
        "downsample_padding": 1,
        "dropout": 0.0,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
        "attn_norm_num_groups": None,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "default",
        "add_attention": True,
    },
    fixed={
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
        "mid_block_scale_factor": 1,
        "downsample_type": "conv",
        "upsample_type": "conv",
        "act_fn": "silu",
        "class_embed_type": None,
        "num_class_embeds": None,
        "num_train_timesteps": None,
    },
    nullable=("attention_head_dim", "attn_norm_num_groups"),
)

DIT = Fields(
    read={
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": None,
        "num_layers": 28,
        "dropout": 0.0,
        "patch_size": 2,
        "num_embeds_ada_norm": 1000,
        "norm_eps": 1e-5,
    },
    fixed={
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        # of Transformer2DModel, which the class was a part of
        "cross_attention_dim": None,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "double_self_attention": False,
        "use_linear_projection": False,
        "attention_type": "default",
        "caption_channels": None,
        "interpolation_scale": None,
        "use_additional_conditions": None,
    },
    unused=("norm_num_groups", "upcast_attention"),
    nullable=("out_channels",),
)

SD3 = Fields(
    read={
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 18,
        "attention_head_dim": 64,
        "num_attention_heads": 18,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1152,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "pos_embed_max_size": 96,
        "dual_attention_layers": (),
        "qk_norm": None,
    },
    nullable=("out_channels", "qk_norm"),
)

ENCODER = {  # fields of a ControlNet that its U-Net has, too
    name: value
    for name, value in UNET_2D_CONDITION.read.items()
    if name not in ("out_channels", "up_block_types", "dropout", "time_cond_proj_dim")
}
CONTROLNET = Fields(
    read=ENCODER | {"conditioning_channels": 3, "conditioning_embedding_out_channels": (16, 32, 96, 256)},
    fixed={
        **{name: UNET_2D_CONDITION.fixed[name] for name in (
            "mid_block_type", "only_cross_attention", "mid_block_scale_factor", "act_fn", "encoder_hid_dim",
            "encoder_hid_dim_type", "class_embed_type", "num_class_embeds",
        )},
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    },
    unused=UNET_2D_CONDITION.unused,
    nullable=UNET_2D_CONDITION.nullable,
    several=UNET_2D_CONDITION.several,
)  # fmt: skip

AUTOENCODER_KL = Fields(
    read={
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
        "mid_block_add_attention": True,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    },
    fixed={"act_fn": "silu"},
    unused=("force_upcast",),  # norms and softmax are float32; the dtype of the rest is what was asked for
)

VQ_MODEL = Fields(
    read={
        name: value
        for name, value in AUTOENCODER_KL.read.items()
        if name not in ("latent_channels", "shift_factor", "latents_mean", "latents_std")
        and not name.startswith("use_")
    }
    | {"latent_channels": 3, "num_vq_embeddings": 256, "vq_embed_dim": None},
    fixed={"act_fn": "silu", "norm_type": "group", "lookup_from_codebook": False},
    unused=AUTOENCODER_KL.unused,
    nullable=("vq_embed_dim",),
)

# Fields of all models of transformers, which its earlier versions wrote into the parts of a CLIP.
OF_ALL_MODELS = tuple(
    """
    add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torchscript typical_p use_bfloat16
    attention_dropout dropout initializer_factor initializer_range
    """.split()
)
CLIP_VISION = Fields(
    read={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "projection_dim": 512,
    },
    fixed={"layer_norm_eps": 1e-5, "num_channels": 3},
    unused=OF_ALL_MODELS,
)

CLIP_TEXT = Fields(
    read={
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 512,
    },
    fixed={"layer_norm_eps": 1e-5},
    # Dropout and initialisation are of training, and the tokens are the tokenizer's.
    unused=OF_ALL_MODELS,
)
