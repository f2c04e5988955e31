"""The requests and responses of the server, with their descriptions for OpenAPI."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tfdetect.core.documents import plain_problem
from tfdetect.core.errors import nearest, shortened
from tfdetect.core.run import Run
from tfdetect.core.text import printable

# Errors of pydantic about a single short value.
_VALUE_ERRORS = ("bool_parsing", "bool_type", "string_type", "list_type", "model_type")


class _Request(BaseModel):
    """What a client sends; a key that is not known gets a message that lists those that are."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    known = list(cls.model_fields)
                    near = nearest(str(key), known)
                    raise ValueError(
                        f"{shortened(key)} is not known.{near} Allowed here: {', '.join(known)}."
                    )
        return data


class ModelQuery(_Request):
    """Query parameters of a request."""

    model: str | None = Field(None, description="name of the run; by default the "
                              "first one or, from a server of the runs that come with tfdetect, "
                              "the one for the size of each image")  # fmt: skip


class PredictQuery(ModelQuery):
    """Query parameters of a request for verdicts."""

    masks: bool = Field(False, description="add `mask_png`: P(altered) of each pixel as a gray PNG "
                        "in base64, from models that predict masks")  # fmt: skip


class EvidenceQuery(ModelQuery):
    """Query parameters of a request for evidence."""

    pictures: bool = Field(False, description="add `pictures` of the regions that the evidence "
                           "is about")  # fmt: skip


class ImageData(_Request):
    """One image of a JSON request."""

    name: str = Field("image", max_length=1000, description="name of the image in the response")
    data: str = Field(description="the file's bytes in base64", json_schema_extra={
        "contentEncoding": "base64",
        "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
    })  # fmt: skip


class PredictRequest(_Request):
    """A JSON request with images."""

    images: list[ImageData] = Field(min_length=1)


class Prediction(BaseModel):
    """The verdict on one image."""

    model_config = ConfigDict(extra="allow")
    path: str = Field(description="name of the file as it was sent")
    detector: str = Field(description="name of the run that gave the verdict")
    p_fake: float | None = Field(description="calibrated probability that the image is fake; null "
                                 "where `error` is set")  # fmt: skip
    verdict: str | None = Field(description="name of the class of the image")
    inconclusive: bool | None = Field(description="whether p_fake is in the abstention band, where "
                                      "the detector is wrong too often")  # fmt: skip
    error: str | None = Field(description="why the file could not be read, or null")


class Predictions(BaseModel):
    """The verdicts on the images of a request, in order."""

    model: str | None = Field(description="name of the run; null if the images got several, which "
                              "their `detector` names")  # fmt: skip
    predictions: list[Prediction]


class EvidenceLine(BaseModel):
    """One piece of evidence."""

    model_config = ConfigDict(extra="allow")
    title: str
    finding: str = Field(description="what was found, in sentences")
    reliability: str = Field(description="how often such a finding is wrong, in sentences")
    says: str = Field(description="what the finding supports: generated, altered, edited, camera, "
                      "authentic or nothing")  # fmt: skip


class EvidencePicture(BaseModel):
    """A picture of the image in which the regions of a piece of evidence are marked."""

    title: str
    alt: str = Field(description="what the picture shows, in words")
    caption: str = Field(description="how to read the picture; may be empty")
    png: str = Field(description="a PNG file in base64; width and height are at most 1,024 pixels")


class Evidence(BaseModel):
    """The evidence on one image."""

    path: str = Field(description="name of the file as it was sent")
    detector: str = Field(description="name of the run whose verdict counts")
    headline: str | None = Field(None, description="the result in a few words")
    tone: str | None = Field(None, description="good, caution or bad")
    reasons: list[str] = Field([], description="the reasons for the headline, in sentences")
    rule: str | None = Field(None, description="the rule by which the headline follows from them")
    lines: list[EvidenceLine] = []
    pictures: list[EvidencePicture] = Field([], description="pictures of the regions that the "
                                            "evidence is about, if `pictures` is true in the "
                                            "query")  # fmt: skip
    error: str | None = Field(None, description="why the file could not be examined, or null")


class EvidenceList(BaseModel):
    """The evidence on the images of a request, in order."""

    model: str | None = Field(description="name of the run; null if the images got several, which "
                              "their `detector` names")  # fmt: skip
    evidence: list[Evidence]


class Copy(BaseModel):
    """The verdict on a re-encoded copy of an image."""

    name: str = Field(description="kind and strength of the re-encoding, as --degrade of evaluate "
                      "takes them")  # fmt: skip
    words: str = Field(description="the re-encoding in words")
    p_fake: float
    verdict: str
    inconclusive: bool


class Stability(BaseModel):
    """How the verdict on an image survives re-encoding."""

    model: str
    path: str = Field(description="name of the file as it was sent")
    sentence: str | None = Field(None, description="for how many copies the verdict stays the "
                                 "same, in a sentence")  # fmt: skip
    copies: list[Copy] = []
    error: str | None = Field(None, description="why the file could not be read, or null")


class ModelInfo(BaseModel):
    """A model of the server, which is a run."""

    name: str
    class_names: list[str] = Field(description="in label order; the first one is authentic")
    predicts_masks: bool = Field(description="whether it marks altered regions")
    threshold: float = Field(description="P(fake) from which the verdict is fake")
    mask_threshold: float | None = Field(description="P(fake) from which a mask is not empty; null "
                                         "if it predicts no masks")  # fmt: skip
    prior: float | None = Field(description="fraction of fakes among all images that P(fake) "
                                "assumes; null if it assumes none")  # fmt: skip
    image_size: list[list[int]] = Field(description="height and width in pixels of the images "
                                        "that the detector takes, for each view")  # fmt: skip
    dataset: str = Field(description="name of the dataset that it was trained on")
    operating_points: dict[str, float] = Field(description="other thresholds of P(fake), by name")

    @classmethod
    def of(cls, run: Run) -> Self:
        """Return the description of a run."""
        return cls(
            name=run.name,
            class_names=list(run.class_names),
            predicts_masks=run.predicts_masks,
            threshold=run.threshold,
            mask_threshold=run.mask_threshold if run.predicts_masks else None,
            prior=run.info.prior,
            image_size=[list(view.size) for view in run.views],
            dataset=run.info.dataset.name,
            operating_points={n: p.threshold for n, p in run.info.operating_points.items()},
        )


class Problem(BaseModel):
    """The response to a request that fails."""

    error: str = Field(description="what was wrong with the request")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "The request is malformed.", 401: "The token is missing or wrong.",
        404: "There is no such model.", 408: "The client sent nothing for too long.",
        409: "Masks are requested from a model that predicts none.",
        413: "The request or a file is too large.",
        415: "The content type or encoding is not supported.",
        422: "A parameter or a part of the body is wrong.",
        429: "Too many images wait; try again after the seconds in Retry-After.",
        503: "The server is starting or stopping, or cannot do this.",
    }.items()
}  # fmt: skip
PROBLEMS_AS_JSON: dict[int | str, dict[str, Any]] = {  # for routes that respond in another format
    code: {"description": problem["description"], "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}
    }}
    for code, problem in PROBLEMS.items()
}  # fmt: skip


def request_body(max_files: int) -> dict[str, Any]:
    """Return the OpenAPI description of the body of a request with images.

    Args:
        max_files: number of images in one request, at most.
    """
    # Without references, which OpenAPI resolves elsewhere than pydantic.
    images = PredictRequest.model_json_schema()
    del images["$defs"]
    images["properties"]["images"] |= {
        "items": ImageData.model_json_schema(),
        "maxItems": max_files,
    }
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "minItems": 1, "maxItems": max_files, "items": file}
    form = {"type": "object", "required": ["files"], "properties": {"files": files},
            "additionalProperties": False}  # fmt: skip
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": images}}
    return {"requestBody": {"required": True, "content": content}}


def first_problem(errors: Sequence[Any], *start: str) -> str:
    """Return the first of the errors of pydantic in words.

    Args:
        errors: the errors, at least one.
        start: the position of what was validated, such as "body".
    """
    first = errors[0]
    where = ".".join(str(part) for part in (*start, *first["loc"]))
    if first["type"] == "missing":
        return printable(f"{where} is required.")
    received = f" Received: {shortened(first['input'])}." if first["type"] in _VALUE_ERRORS else ""
    return printable(f"{where}: {plain_problem(first).rstrip('.')}.{received}")
