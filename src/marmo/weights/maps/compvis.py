"""What the single files of CompVis's programs hold beside the networks, and why we have no use for it.

Names and meaning: `register_buffer` in CompVis/stable-diffusion, ldm/models/diffusion/ddpm.py.
"""

from marmo.weights.keymap import Drop

_SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)

LEFTOVERS: tuple[Drop, ...] = (
    *(Drop(name, "the noise schedule as a table, which is computed") for name in _SCHEDULE),
    Drop("denoiser.sigmas", "the noise levels as a table in SDXL's training, which is computed"),
    Drop("lvlb_weights", "the weights of the variational bound, which only training uses"),
    Drop("logvar", "the learned weights of the loss, which only training uses"),
    Drop("low_scale_model", "the noise levels of an upscaler's small picture, which are computed"),
    Drop("scale_factor", "the scale of the latents, which the autoencoder's config holds"),
    Drop("model_ema", "the moving average of the U-Net's weights; the file's own U-Net is the one that is used"),
)
