"""Names of image generators for people: datasets name them for programs, as "sd-1.5-benchmark"."""

from collections.abc import Iterable

# By the names in the data of the runs that come with tfdetect, some of which name a collection of
# images instead of a program.
_NAMES = {
    "ai-horde": "various models (AI Horde)",
    "autoencoder": "an autoencoder that re-encodes a region",
    "comfy-playground": "various models (ComfyUI)",
    "comfy-workflows": "various models (ComfyUI)",
    "comfyui-examples": "various models (ComfyUI)",
    "copy_move": "copying within an image",
    "dall-e-2": "DALL-E 2",
    "dall-e-2-bingo": "DALL-E 2",
    "dall-e-3": "DALL-E 3",
    "dalle-mini": "DALL-E mini",
    "deepfloyd-if": "DeepFloyd IF",
    "dreamshaper-8-lcm": "DreamShaper 8 LCM",
    "flux-1-dev": "FLUX.1 dev",
    "flux-1-docs": "FLUX.1",
    "flux-1-schnell": "FLUX.1 schnell",
    "flux-1-xlabs": "FLUX.1 dev (XLabs)",
    "gemini-2.5-flash-image": "Gemini 2.5 Flash Image",
    "gemini-3-or-gpt-image": "Gemini 3 or GPT Image",
    "gemini-3-pro-image": "Gemini 3 Pro Image",
    "gpt-image-1": "GPT Image 1",
    "gpt-image-2": "GPT Image 2",
    "grok": "Grok",
    "hunyuan-dit": "Hunyuan-DiT",
    "imagen-3": "Imagen 3",
    "infinity": "Infinity",
    "interior-sd": "Stable Diffusion",
    "invoke-presets": "various models (InvokeAI)",
    "kandinsky": "Kandinsky",
    "kolors": "Kolors",
    "latent-diffusion-1.45b": "Latent Diffusion",
    "midjourney": "Midjourney",
    "midjourney-4": "Midjourney 4",
    "midjourney_shoes": "Midjourney",
    "misc-2025": "various models of 2025",
    "navier_stokes": "Navier-Stokes inpainting",
    "omnigen": "OmniGen",
    "replacer": "FLUX.1 and SDXL Turbo",
    "res4lyf": "various models (ComfyUI)",
    "sd-1.5-benchmark": "Stable Diffusion 1.5",
    "sd-1.5-wyrde": "Stable Diffusion 1.5",
    "sd-turbo": "SD Turbo",
    "sd21": "Stable Diffusion 2.1",
    "sdxl": "SDXL",
    "sdxl-base": "SDXL",
    "sdxl-fooocus": "SDXL",
    "sdxl-lightning": "SDXL Lightning",
    "sdxl-rpg": "SDXL",
    "sdxl-searge": "SDXL",
    "splice": "splicing of two images",
    "splicing": "splicing of two images",
    "stable-diffusion-2": "Stable Diffusion 2",
    "stable-diffusion-3": "Stable Diffusion 3",
    "stable-diffusion-3.5": "Stable Diffusion 3.5",
    "stable-diffusion-artists": "Stable Diffusion",
    "stable-diffusion-bingo": "Stable Diffusion",
    "stable-diffusion-showcase": "Stable Diffusion",
    "stable-diffusion-v1": "Stable Diffusion 1",
    "stable-diffusion-v1-beta": "Stable Diffusion 1",
    "stylegan2": "StyleGAN2",
    "stylegan2_faces": "StyleGAN2",
    "stylegan3": "StyleGAN3",
    "telea": "Telea inpainting",
    "unknown": "unnamed generators",
    "unnamed-2023": "unnamed generators",
    "unnamed-2025": "unnamed generators",
    "uno-flux": "UNO (FLUX.1)",
    "uso-flux": "USO (FLUX.1)",
    "vqgan-clip": "VQGAN+CLIP",
    "z-image-turbo": "Z-Image Turbo",
}


def readable_generators(names: Iterable[str]) -> list[str]:
    """Return the names of generators for people, each once, in alphabetical order.

    Args:
        names: as datasets and runs have them; those without another name are shown as they are,
            with spaces instead of underscores.
    """
    found = {_NAMES.get(name) or name.replace("_", " ") for name in names}
    return sorted(found, key=str.casefold)
