"""Classify Images."""

from comfy import model_management
from comfy_api.latest import io, ui

from ..higfa_core.classifier import FineGrainedClassifier
from .classifier import HiGFAClassifier


class ClassifyImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_ClassifyImages",
            display_name="Classify Images",
            category="HiGFA",
            description="Shows what a classifier sees: the three likeliest classes of every image.",
            search_aliases=["classify", "predict class", "confidence", "top-k", "image classification"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="Images to classify, any size: they are resized as trained."),
                HiGFAClassifier.Input("classifier", tooltip="From Load Fine-Grained Classifier."),
                io.String.Input(
                    "class_name",
                    default="",
                    optional=True,
                    tooltip="Class to report the probability of in every image. Empty: the likeliest class.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="table"),
                io.Float.Output(
                    display_name="mean_confidence",
                    tooltip="Mean probability of class_name, or of each image's likeliest class.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, classifier: FineGrainedClassifier, class_name: str = "") -> io.NodeOutput:
        target = classifier.index(class_name) if class_name.strip() else None
        if classifier.patcher is not None:
            model_management.load_models_gpu([classifier.patcher])
        proba = classifier.predict_proba(images[..., :3])
        table, mean = confidence_table(proba, classifier.class_names, target)
        return io.NodeOutput(table, mean, ui=ui.PreviewText(table))


def confidence_table(proba, class_names, target: int | None) -> tuple[str, float]:
    """Probabilities [B, K] -> (a line per image: top three and target, mean confidence)."""
    confidence = proba.amax(dim=1) if target is None else proba[:, target]
    lines = []
    for i, row in enumerate(proba):
        top = row.topk(min(3, len(row)))
        ranked = (f"{class_names[k]} {p:.1%}" for p, k in zip(top.values.tolist(), top.indices.tolist(), strict=True))
        wanted = "" if target is None else f" | {class_names[target]}: {confidence[i]:.1%}"
        lines.append(f"{i + 1}: {', '.join(ranked)}{wanted}")
    label = "likeliest class" if target is None else class_names[target]
    mean = float(confidence.mean())
    return "\n".join([*lines, f"mean of {len(lines)}, {label}: {mean:.1%}"]), mean


NODES = [ClassifyImages]
