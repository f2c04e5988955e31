"""The meaning of the names of folders and classes: authentic, fake, split, masks, generator."""

import re
from collections.abc import Iterable

# Class names that mean "authentic" or "fake". Numbers and all other names are asked about
# (--authentic); neither they nor the order of names say which class is authentic.
AUTHENTIC_WORDS = frozenset({
    "real", "reals", "authentic", "au", "auth", "nature", "natural", "original", "originals",
    "genuine", "pristine", "photo", "photos", "photograph", "photographs", "human",
})  # fmt: skip
FAKE_WORDS = frozenset({
    "fake", "fakes", "ai", "generated", "synthetic", "altered", "edited", "forged", "forgery",
    "forgeries", "inpainted", "manipulated", "tampered", "tp", "sp", "cm", "deepfake", "deepfakes",
    "spliced",
})  # fmt: skip
# Words that say nothing about a class: "Real Images", "training_fake" and "0_real" are known.
_FILLERS = frozenset({
    "image", "images", "img", "imgs", "picture", "pictures", "face", "faces", "class", "train",
    "training", "validation", "valid", "val", "test", "testing",
})  # fmt: skip
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "train_set": "train", "training_set": "train",
    "trainset": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "validation_set": "validation", "val_set": "validation", "valset": "validation",
    "test": "test", "testing": "test", "test_set": "test", "testing_set": "test",
    "testset": "test",
}  # fmt: skip
# Folders beside the images that hold something about them: masks, and pictures made of them. They
# never become classes. A name means one of these if it contains the words.
MASK_FOLDERS = (
    "mask", "masks", "gt", "gts", "groundtruth", "groundtruths", "ground truth", "ground truths",
    "edgemask", "edgemasks", "segmentation mask", "segmentation masks", "binary mask", "gtmask",
    "gtmasks", "segmentation", "segmentations", "segmentationclass", "segmentationobject", "segmap",
    "segmaps", "seg", "annotation", "annotations", "labelmap", "labelmaps", "label map",
    "label maps", "trimap", "trimaps", "matte", "mattes", "localization map", "localization maps",
)  # fmt: skip
DERIVED_FOLDERS = (
    "ela", "noiseprint", "noiseprints", "heatmap", "heatmaps", "thumbnail", "thumbnails",
    "saliency", "depth map", "depth maps", "edge map", "edge maps", "residual map", "residual maps",
)  # fmt: skip
# Generators by the words of their folders. More words come before fewer.
GENERATORS = {
    "stable diffusion v 1 4": "Stable Diffusion 1.4", "stable diffusion 1 4":
    "Stable Diffusion 1.4", "sdv4": "Stable Diffusion 1.4", "sdv14": "Stable Diffusion 1.4",
    "sd14": "Stable Diffusion 1.4", "sdv1 4": "Stable Diffusion 1.4",
    "stable diffusion v 1 5": "Stable Diffusion 1.5", "stable diffusion 1 5":
    "Stable Diffusion 1.5", "sdv5": "Stable Diffusion 1.5", "sdv15": "Stable Diffusion 1.5",
    "sd15": "Stable Diffusion 1.5", "sdv1 5": "Stable Diffusion 1.5",
    "stable diffusion v 2 1": "Stable Diffusion 2.1", "sd21": "Stable Diffusion 2.1",
    "sdv2": "Stable Diffusion 2", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL",
    "stable diffusion xl": "Stable Diffusion XL", "sd3": "Stable Diffusion 3",
    "stable diffusion": "Stable Diffusion", "midjourney": "Midjourney", "mj": "Midjourney",
    "wukong": "Wukong", "vqdm": "VQDM", "vq diffusion": "VQDM", "vqdiffusion": "VQDM",
    "glide": "GLIDE", "adm": "ADM", "guided": "ADM", "ddpm": "DDPM", "iddpm": "IDDPM",
    "pndm": "PNDM", "ldm": "LDM", "dalle": "DALL-E", "dalle2": "DALL-E 2", "dalle3": "DALL-E 3",
    "dall e": "DALL-E", "flux": "FLUX", "imagen": "Imagen", "firefly": "Firefly",
    "biggan": "BigGAN", "progan": "ProGAN", "gaugan": "GauGAN", "stargan": "StarGAN",
    "cyclegan": "CycleGAN", "stylegan": "StyleGAN", "stylegan2": "StyleGAN2",
    "stylegan3": "StyleGAN3", "lama": "LaMa", "faceswap": "FaceSwap", "face2face": "Face2Face",
    "neuraltextures": "NeuralTextures", "deepfakes": "Deepfakes",
}  # fmt: skip


def words(name: str) -> list[str]:
    """Return the words of a name in lower case: runs of letters and digits."""
    return re.findall(r"[^\W_]+", name.lower())


def class_polarity(name: str) -> str | None:
    """Return "authentic" or "fake" if the name of a class means that, else None.

    Numbers before or behind the word do not matter: "0_real" is authentic. A number alone says
    nothing.
    """
    found = {w for w in words(name) if not w.isdecimal() and w not in _FILLERS}
    if found and found <= AUTHENTIC_WORDS:
        return "authentic"
    if found and found <= FAKE_WORDS:
        return "fake"
    return None


def split_of(name: str) -> str | None:
    """Return the split that a folder's name means: train, validation, test or None."""
    return SPLIT_FOLDERS.get("_".join(words(name)))


def contains(name: str, phrases: Iterable[str]) -> bool:
    """Return whether a name contains one of the phrases, as whole words and whatever their case."""
    found = " ".join(words(name))
    return any(f" {phrase} " in f" {found} " for phrase in phrases)


def is_mask_folder(name: str) -> bool:
    """Return whether a folder's name says that masks are in it."""
    return contains(name, MASK_FOLDERS)


def is_derived_folder(name: str) -> bool:
    """Return whether a folder's name says that pictures made of the images are in it."""
    return contains(name, DERIVED_FOLDERS)


def generator_of(name: str) -> str | None:
    """Return the name of the generator that a folder's name contains, or None."""
    found = f" {' '.join(words(name))} "
    for phrase in sorted(GENERATORS, key=len, reverse=True):
        if f" {phrase} " in found:
            return GENERATORS[phrase]
    return None
