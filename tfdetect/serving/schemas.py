"""The requests and answers of the server, and what OpenAPI says about them."""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from tfdetect.core.run import Run
from tfdetect.core.text import printable


class ModelQuery(BaseModel):
    """What the address of a request may say."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, description="name of the run; by default the first one")


class PredictQuery(ModelQuery):
    """What the address of a request for verdicts may say."""

    masks: bool = Field(False, description="add `mask_png`: P(altered) of each pixel as a gray PNG "
                        "in base64, from models that predict masks")  # fmt: skip


class EvidenceQuery(ModelQuery):
    """What the address of a request for evidence may say."""

    pictures: bool = Field(False, description="add `pictures` of the regions that the evidence "
                           "speaks of")  # fmt: skip


class ImageData(BaseModel):
    """One image of a JSON request."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field("image", max_length=1000, description="what to call it in the answer")
    data: str = Field(description="the file's bytes in base64", json_schema_extra={
        "contentEncoding": "base64",
        "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
    })  # fmt: skip


class PredictRequest(BaseModel):
    """A JSON request with images."""

    model_config = ConfigDict(extra="forbid")
    images: list[ImageData] = Field(min_length=1)


class Prediction(BaseModel):
    """The verdict on one image."""

    model_config = ConfigDict(extra="allow")
    path: str = Field(description="name of the file as it was sent")
    p_fake: float | None = Field(description="calibrated probability that it is fake; null where "
                                 "`error` is set")  # fmt: skip
    verdict: str | None = Field(description="name of the class")
    inconclusive: bool | None = Field(description="whether p_fake is in the abstention band")
    error: str | None = Field(description="why the file could not be read, or null")


class Predictions(BaseModel):
    """The verdicts on the images of a request, in order."""

    model: str
    predictions: list[Prediction]


class EvidenceLine(BaseModel):
    """One piece of evidence."""

    model_config = ConfigDict(extra="allow")
    title: str
    finding: str = Field(description="what was found, in sentences")
    reliability: str = Field(description="how often such a finding is wrong, in sentences")
    says: str = Field(description="what it speaks for: generated, altered, edited, camera, "
                      "authentic or nothing")  # fmt: skip


class EvidencePicture(BaseModel):
    """The image with regions marked that a piece of evidence speaks of."""

    title: str
    alt: str = Field(description="what it shows, in words")
    caption: str = Field(description="how to read it, may be empty")
    png: str = Field(description="a PNG file in base64, of at most 1,024 pixels each side")


class Evidence(BaseModel):
    """What is known of one image."""

    path: str = Field(description="name of the file as it was sent")
    headline: str | None = Field(None, description="the result in a few words")
    tone: str | None = Field(None, description="good, caution or bad")
    reasons: list[str] = Field([], description="sentences that say what it follows from")
    rule: str | None = Field(None, description="the rule that the headline follows")
    lines: list[EvidenceLine] = []
    pictures: list[EvidencePicture] = Field([], description="where `pictures` asked for them, and "
                                            "there are such regions")  # fmt: skip
    error: str | None = Field(None, description="why the file could not be examined, or null")


class EvidenceList(BaseModel):
    """What is known of the images of a request, in order."""

    model: str
    evidence: list[Evidence]


class Copy(BaseModel):
    """The verdict on a re-encoded copy of an image."""

    name: str = Field(description="kind and strength, as evaluate --degrade takes them")
    words: str = Field(description="the same in words")
    p_fake: float
    verdict: str
    inconclusive: bool


class Stability(BaseModel):
    """How the verdict on an image survives re-encoding."""

    model: str
    path: str = Field(description="name of the file as it was sent")
    sentence: str | None = Field(None, description="how many copies keep the verdict")
    copies: list[Copy] = []
    error: str | None = Field(None, description="why the file could not be read, or null")


class ModelInfo(BaseModel):
    """A run that answers."""

    name: str
    class_names: list[str] = Field(description="in label order; the first one is authentic")
    predicts_masks: bool
    threshold: float
    mask_threshold: float | None = Field(description="P(fake) from which a mask is not empty")
    prior: float | None
    image_size: list[list[int]] = Field(description="height and width that the detector sees")
    dataset: str
    operating_points: dict[str, float] = Field(description="thresholds by name")

    @classmethod
    def of(cls, run: Run) -> Self:
        """Return what is said of a run."""
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
    """What was wrong with a request."""

    error: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "The request is malformed.", 401: "The token is missing or wrong.",
        404: "There is no such model.", 408: "The client sent nothing for too long.",
        409: "Masks are asked of a model that predicts none.",
        413: "The request or a file is too large.",
        415: "The content type or encoding is not supported.", 422: "A parameter is wrong.",
        429: "Too many images wait; try again after the seconds in Retry-After.",
        503: "The server starts or stops, or lacks what is needed.",
    }.items()
}  # fmt: skip
PROBLEMS_AS_JSON: dict[int | str, dict[str, Any]] = {  # of routes that answer in another format
    code: {"description": problem["description"], "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}
    }}
    for code, problem in PROBLEMS.items()
}  # fmt: skip


def request_body(max_files: int) -> dict[str, Any]:
    """Return what OpenAPI says about the body of a request with images."""
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
    """Return the first of pydantic's errors in words; `start` says what was validated."""
    where = ".".join(str(part) for part in (*start, *errors[0]["loc"]))
    return printable(f"{where}: {errors[0]['msg']}")
