"""Check Classifier for Guidance."""

from comfy_api.latest import io, ui

from ..higfa_core.checking import report, sample
from ..higfa_core.checking.settings import CheckSettings
from ..higfa_core.checking.verdict import Check, verdict
from ..higfa_core.comfy.predict import as_rgb
from ..higfa_core.comfy.stages import Noise, measure
from ..higfa_core.files import paths
from ..higfa_core.guidance.targets import class_lines
from ..higfa_core.training.data import read_labelled
from ..higfa_core.wording import counted
from .folders import dataset_flaw, dataset_folder, dataset_input
from .types import HiGFAClassifier
from .widgets import widgets


class CheckClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_CheckClassifier",
            display_name="Check Classifier for Guidance",
            category="HiGFA",
            description="Can a classifier guide? Reads labelled images unchanged, through the VAE, through the tiny "
            "decoder and at the noise levels of the guidance, and says what to change.",
            search_aliases=["test classifier", "classifier accuracy", "evaluate classifier", "taesd", "noise levels"],
            is_output_node=True,
            inputs=[
                HiGFAClassifier.Input("classifier", tooltip="The classifier that will guide."),
                io.Vae.Input("vae", tooltip="The VAE of the model that will be guided."),
                dataset_input(
                    "Labelled images inside ComfyUI's input folder: <class>/<image>, or train/ and val/ with such "
                    "folders. higfa_demo: the miniature's birds. Empty: use the images input."
                ),
                *widgets(CheckSettings, "images_from", "per_class", "image_size", "start_percent", "cfg"),
                io.Model.Input("model", optional=True, tooltip="Needed for the tiny decoder and the noise levels."),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Needed for the noise levels: a prompt that names no class, without ControlNet.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative prompt of the sampler."),
                io.Image.Input("images", optional=True, tooltip="Labelled images instead of a dataset folder."),
                io.String.Input(
                    "class_names",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip="Classes of the images input: one for all images, or one per line and image.",
                ),
                *widgets(CheckSettings, "end_sigma", "noise_levels", "validation_share", "seed", optional=True),
            ],
            outputs=[
                io.String.Output(display_name="verdict", tooltip="What the numbers mean and what to change."),
                io.Image.Output(display_name="plot", tooltip="Accuracy by stage and by noise level."),
                io.String.Output(display_name="table", tooltip="Every number with its interval."),
            ],
        )

    @classmethod
    def execute(
        cls,
        classifier,
        vae,
        dataset,
        model=None,
        positive=None,
        negative=None,
        images=None,
        class_names="",
        **settings,
    ) -> io.NodeOutput:
        settings = CheckSettings.pick(settings)
        if bool(dataset.strip()) == (images is not None):
            raise ValueError("Give either a dataset folder or images, not both.")
        noise = None
        if model is not None and positive is not None:
            noise = Noise(positive, negative, settings)
        if images is None:
            batches, labels = _from_folder(dataset.strip(), classifier, settings)
        else:
            batches, labels = _from_batch(images, class_lines(class_names), classifier, settings.image_size)
        result = Check.of(measure(classifier, batches, len(labels), vae, model, noise), labels, model is not None)
        words, table = verdict(result), report.table(result)
        plot = report.plot(result, classifier.source)
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), **ui.PreviewText(f"{words}\n\n{table}").as_dict()}
        return io.NodeOutput(words, plot, table, ui=shown)

    @classmethod
    def validate_inputs(cls, dataset):
        return dataset is None or not dataset.strip() or dataset_flaw(dataset) or True

    @classmethod
    def fingerprint_inputs(cls, dataset=None, **others):
        # A linked value is None here; its own node's fingerprint covers it.
        name = (dataset or "").strip()
        return paths.fingerprint(dataset_folder(name)) if name else ""


def _from_folder(name, classifier, settings):
    labelled = read_labelled(dataset_folder(name), settings.validation_share)
    indices = sample.class_indices(labelled.class_names, classifier)
    files = sample.choose(labelled, settings.images_from, settings.per_class, settings.seed)
    return sample.load_batches(files, settings.image_size), [indices[item.label] for item in files]


def _from_batch(images, names, classifier, size):
    images = as_rgb(images)
    if len(names) not in (1, len(images)):
        got = f"{counted(len(names), 'class name')} for {counted(len(images), 'image')}"
        raise ValueError(f"{got}. Give one, or one per line and image.")
    labels = sample.class_indices(names, classifier)
    batches = sample.square(images, size).split(sample.batch_size(size))
    return batches, labels * len(images) if len(labels) == 1 else labels


NODES = [CheckClassifier]
