"""`hf:[task:]model[@revision]`: transformers' pipelines as photons, `/run` by task. Weights are safetensors; no code of a model is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...base.errors import InvalidInput, Missing, NotFound, Unavailable, did_you_mean
from ..types import File, PNGResponse
from .photon import Photon, _name_of


class HuggingFacePhoton(Photon):
    """`pipeline` is made in `init`, from a local folder or the Hub's cache (or the Hub, where HF_HUB_OFFLINE is not set)."""

    photon_type = "hf"
    task = ""
    handler_max_concurrency = 1

    def init(self) -> None:
        try:
            import torch
            from transformers import pipeline
        except ModuleNotFoundError as error:
            raise Missing(error.name or "transformers", "text") from error
        _, model, revision = parse(self._photon_model.partition(":")[2])
        torch.set_grad_enabled(False)
        options = {"trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
        try:
            self.pipeline = pipeline(self._pipeline_task(), model=model, revision=revision, **options)
        except (OSError, KeyError) as error:
            raise Unavailable(f"the model cannot be loaded: {error}", received=model) from error

    def _pipeline_task(self) -> str:
        return {"sentence-similarity": "feature-extraction", "sentiment-analysis": "text-classification"}.get(
            self.task, self.task
        )


class TextPhoton(HuggingFacePhoton):
    @Photon.handler("run", example={"inputs": "I like this."})
    def run(self, inputs: str | list[str], **options: Any) -> Any:
        """The pipeline's answer for a text, or for each of several. Other arguments go to the pipeline."""
        return _checked(self.pipeline, inputs, options)


class GenerationPhoton(HuggingFacePhoton):
    @Photon.handler("run", example={"inputs": "Once upon a time", "max_new_tokens": 50})
    def run(self, inputs: str | list[str], max_new_tokens: int = 128, **options: Any) -> Any:
        """Text that continues, translates or summarises the input."""
        found = _checked(self.pipeline, inputs, {"max_new_tokens": max_new_tokens, **options})
        texts = [next(iter((one[0] if isinstance(one, list) else one).values())) for one in found]
        return texts[0] if isinstance(inputs, str) else texts


class EmbeddingPhoton(HuggingFacePhoton):
    def _vectors(self, texts: list[str]) -> Any:
        import numpy as np

        vectors = np.stack([np.asarray(self.pipeline(text)[0], dtype=np.float32).mean(0) for text in texts])
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    @Photon.handler("embed", example={"inputs": "a sentence"})
    def embed(self, inputs: str | list[str]) -> list:
        """Unit vectors: the mean of the tokens' last layer."""
        found = self._vectors([inputs] if isinstance(inputs, str) else inputs)
        return found[0].tolist() if isinstance(inputs, str) else found.tolist()

    @Photon.handler("run", example={"source_sentence": "a dog", "sentences": ["a puppy", "a car"]})
    def run(self, source_sentence: str, sentences: list[str]) -> list[float]:
        """Cosine similarity of each sentence to the source."""
        found = self._vectors([source_sentence, *sentences])
        return (found[1:] @ found[0]).tolist()


class ImagePhoton(HuggingFacePhoton):
    @Photon.handler("run")
    def run(self, inputs: File, **options: Any) -> Any:
        """The pipeline's answer for an image."""
        found = _checked(self.pipeline, _image(inputs), options)
        if hasattr(found, "save"):
            return _png(found)
        return _png(found["depth"]) if isinstance(found, dict) and "depth" in found else found


class AudioPhoton(HuggingFacePhoton):
    @Photon.handler("run")
    def run(self, inputs: File, **options: Any) -> Any:
        """The text of speech, or the classes of a sound."""
        return _checked(self.pipeline, inputs.get_content(), options)


TASKS: dict[str, type[HuggingFacePhoton]] = {
    "text-generation": GenerationPhoton,
    "text2text-generation": GenerationPhoton,
    "summarization": GenerationPhoton,
    "sentiment-analysis": TextPhoton,
    "text-classification": TextPhoton,
    "token-classification": TextPhoton,
    "feature-extraction": TextPhoton,
    "sentence-similarity": EmbeddingPhoton,
    "automatic-speech-recognition": AudioPhoton,
    "audio-classification": AudioPhoton,
    "image-classification": ImagePhoton,
    "image-to-text": ImagePhoton,
    "image-to-image": ImagePhoton,
    "depth-estimation": ImagePhoton,
}


def parse(text: str) -> tuple[str | None, str, str | None]:
    """`[task:]model[@revision]` → task, model, revision."""
    task, colon, model = text.partition(":")
    if not colon or task not in TASKS:
        if colon and "/" not in task and not Path(text).exists():
            raise InvalidInput("this task is not served", received=task, fix=did_you_mean(task, TASKS))
        task, model = "", text
    model, _, revision = model.partition("@")
    return task or None, model, revision or None


def photon_of(name: str | None, model: str, rest: str) -> HuggingFacePhoton:
    task, where, revision = parse(rest)
    task = task or _infer(where, revision)
    kind = type(TASKS[task].__name__, (TASKS[task],), {"task": task, "__doc__": f"{where}: {task}"})
    return kind(name or _name_of(Path(where).name), model)


def _infer(model: str, revision: str | None) -> str:
    """From the config of a local model, else from the Hub."""
    config = Path(model) / "config.json"
    if config.is_file():
        architecture = (json.loads(config.read_bytes()).get("architectures") or [""])[0]
        for ending, task in _ARCHITECTURES.items():
            if architecture.endswith(ending):
                return task
        raise InvalidInput(
            "the task of this model is not known", received=architecture or model, fix=f"Name it: hf:TASK:{model}."
        )
    try:
        from huggingface_hub import model_info

        found = model_info(model, revision=revision).pipeline_tag
    except ModuleNotFoundError as error:
        raise Missing(error.name or "transformers", "text") from error
    except Exception as error:
        raise NotFound(
            f"the Hub does not tell the task of {model} ({type(error).__name__})", fix=f"Name it: hf:TASK:{model}."
        ) from None
    if found not in TASKS:
        raise InvalidInput("this task is not served", received=found, fix=did_you_mean(str(found), TASKS))
    return found


_ARCHITECTURES = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForCTC": "automatic-speech-recognition",
    "ForDepthEstimation": "depth-estimation",
    "Model": "feature-extraction",
}


def _checked(pipeline: Any, inputs: Any, options: dict[str, Any]) -> Any:
    """The pipeline's answer; what it does not take is the client's mistake."""
    reserved = {"tokenizer", "model", "trust_remote_code"} & set(options)
    if reserved:
        raise InvalidInput("this argument may not be given", received=", ".join(sorted(reserved)))
    try:
        return pipeline(inputs, **options)
    except TypeError as error:
        raise InvalidInput(f"the pipeline does not take this: {error}") from None


def _image(file: File) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file.get_bytesio()).convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InvalidInput("this is no image") from error


def _png(image: Any) -> PNGResponse:
    import io

    out = io.BytesIO()
    image.save(out, format="PNG")
    out.seek(0)
    return PNGResponse(out)
