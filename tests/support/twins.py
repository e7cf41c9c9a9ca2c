"""One small network in both hosts: a transformer or UNet of diffusers, and its weights in ComfyUI's class for it."""

import pytest
import torch

CONTEXT, POOLED = 12, 8


def sdxl():
    """(UNet, MODEL): two levels, the second with attention. ComfyUI's SDXL has 64 channels a head."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(32, 64), attention_head_dim=(1, 1),
        cross_attention_dim=CONTEXT, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=POOLED + 6 * 256,
    )  # fmt: skip
    own = {
        "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": [1, 1],
        "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1,
        "context_dim": CONTEXT, "adm_in_channels": POOLED + 6 * 256, "num_classes": "sequential",
        "use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False, "image_size": 32,
    }  # fmt: skip
    return random(unet), lambda: in_comfyui("SDXL", own, renamed(unet.state_dict(), comfyui_names("unet", own)))


def qwen_image():
    """(transformer, MODEL): two layers."""
    from diffusers import QwenImageTransformer2DModel

    own = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": CONTEXT}
    transformer = QwenImageTransformer2DModel(in_channels=64, out_channels=16, axes_dims_rope=(4, 6, 6), **own)
    own |= {"in_channels": 64, "axes_dims_rope": (4, 6, 6)}
    return random(transformer), lambda: in_comfyui("QwenImage", own, transformer.state_dict())


def z_image():
    """(transformer, MODEL): one layer, and one refiner of each kind. Narrower than 1024, the two hosts differ."""
    from diffusers import ZImageTransformer2DModel

    sizes = {"dim": 1152, "n_layers": 1, "n_heads": 9, "n_kv_heads": 9, "cap_feat_dim": CONTEXT, "rope_theta": 256.0}
    axes = {"axes_dims": [32, 48, 48], "axes_lens": [64, 64, 64]}
    transformer = ZImageTransformer2DModel(in_channels=16, n_refiner_layers=1, **sizes, **axes)
    own = {
        **sizes, **axes, "in_channels": 16, "n_refiner_layers": 1, "qk_norm": True, "ffn_dim_multiplier": 8 / 3,
        "patch_size": 2, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
    }  # fmt: skip
    return random(transformer), lambda: in_comfyui(
        "ZImage", own, renamed(transformer.state_dict(), comfyui_names("z_image", own))
    )


def flux2():
    """(transformer, MODEL): one block of each kind."""
    from diffusers import Flux2Transformer2DModel

    rope = (8, 8, 8, 8)
    transformer = Flux2Transformer2DModel(
        in_channels=128, num_layers=1, num_single_layers=1, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=CONTEXT, axes_dims_rope=rope, timestep_guidance_channels=256,
    )  # fmt: skip
    own = {
        "in_channels": 128, "out_channels": 128, "patch_size": 1, "vec_in_dim": None, "context_in_dim": CONTEXT,
        "hidden_size": 64, "mlp_ratio": 3.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
        "axes_dim": list(rope), "theta": 2000, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False,
        "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3],
        "guidance_embed": True,
    }  # fmt: skip
    return random(transformer), lambda: in_comfyui("Flux2", own, renamed(transformer.state_dict(), flux2_names()))


def random(module):
    """Every weight is noise, at the size that keeps activations near 1."""
    draw = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        size = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = size * torch.randn(parameter.shape, generator=draw) + (parameter.ndim == 1)
    return module.eval().requires_grad_(False)


def comfyui_names(family, own):
    """From diffusers' names to ComfyUI's, as its own loader has them: a name, or (name, (axis, start, length), …)."""
    import comfy.utils

    if not hasattr(comfy.utils, f"{family}_to_diffusers"):
        pytest.skip(f"this ComfyUI has no names of {family} in diffusers")
    return getattr(comfy.utils, f"{family}_to_diffusers")(own)


def flux2_names():
    """The same for one double and one single block of Flux.2, 64 wide, which ComfyUI does not load from diffusers."""
    names = {
        "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
        "single_transformer_blocks.0.attn.to_qkv_mlp_proj": "single_blocks.0.linear1",
        "single_transformer_blocks.0.attn.to_out": "single_blocks.0.linear2",
        "single_transformer_blocks.0.attn.norm_q": "single_blocks.0.norm.query_norm",
        "single_transformer_blocks.0.attn.norm_k": "single_blocks.0.norm.key_norm",
    }  # fmt: skip
    for part in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"):
        names[f"{part}.linear"] = f"{part}.lin"
    for theirs, ours in (("timestep", "time"), ("guidance", "guidance")):
        for number, layer in ((1, "in_layer"), (2, "out_layer")):
            names[f"time_guidance_embed.{theirs}_embedder.linear_{number}"] = f"{ours}_in.{layer}"
    streams = {
        "img": ("to_{}", "norm_{}", "to_out.0", "ff"),
        "txt": ("add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
    }
    for stream, (projection, norm, out, feed) in streams.items():
        block, own = "transformer_blocks.0", f"double_blocks.0.{stream}"
        for place, letter in enumerate("qkv"):
            where = (f"{own}_attn.qkv.weight", (0, 64 * place, 64))
            names[f"{block}.attn.{projection.format(letter)}"] = where
        for letter, word in (("q", "query"), ("k", "key")):
            names[f"{block}.attn.{norm.format(letter)}"] = f"{own}_attn.norm.{word}_norm"
        names |= {f"{block}.attn.{out}": f"{own}_attn.proj", f"{block}.{feed}.linear_in": f"{own}_mlp.0"}
        names[f"{block}.{feed}.linear_out"] = f"{own}_mlp.2"
    weights = {f"{theirs}.weight": f"{at}.weight" if isinstance(at, str) else at for theirs, at in names.items()}
    swapped = ("final_layer.adaLN_modulation.1.weight", (0, 0, 128), lambda scale_shift: scale_shift.roll(64, 0))
    return weights | {"norm_out.linear.weight": swapped}


def renamed(weights, names):
    """A state dict under other names; parts of one tensor are put together."""
    out = {}
    for name, value in weights.items():
        target = names[name]
        if isinstance(target, str):
            out[target] = value
        else:
            target, (_, start, _), *change = target
            out.setdefault(target, {})[start] = change[0](value) if change else value
    joined = {name: [part[start] for start in sorted(part)] for name, part in out.items() if isinstance(part, dict)}
    return out | {name: torch.cat(parts) for name, parts in joined.items()}


def in_comfyui(family, own, weights):
    """MODEL of a family in `comfy.supported_models`, with a network of these sizes."""
    import comfy.model_patcher
    import comfy.supported_models as families

    if not hasattr(families, family):
        pytest.skip(f"this ComfyUI has no {family}")
    kind = getattr(families, family)
    config = kind({**kind.unet_config, **own, "dtype": torch.float32})
    config.manual_cast_dtype = None
    model = config.get_model({}, "", device=torch.device("cpu"))
    known = model.diffusion_model.state_dict().keys()
    older = {name: name if name in known else name.replace("_norm.weight", "_norm.scale") for name in weights}
    weights = {older[name]: value for name, value in weights.items()}
    missing, unexpected = model.diffusion_model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert not missing, missing
    model.diffusion_model.requires_grad_(False)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, torch.device("cpu"), torch.device("cpu"))
