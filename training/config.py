"""What `binsight train --config` reads.

Every key is explained here and checked before any work begins. The defaults are the recommended
recipe, for one set of photographs and a machine at home; configs/trashnet.yaml has what a GPU, its
sets and its teachers add.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat

from configs import StrictModel
from vision.preprocess import Fit, PreprocessSpec


class DataConfig(StrictModel):
    """Where the images come from.

    Attributes:
        root: folder with a splits.csv or class folders; None trains on simulator images.
        also: further such folders, whose images are added to train and val.
        repeat: name of a set (its folder) -> how often an epoch shows each of its training images;
            1 for the others. A fraction is the share of such images that an epoch shows once
            more.
        outliers: folders whose images of other labels show what the network should not claim to
            know: in training they are given no label, which is what the unknown test then builds
            on. Images of trained labels are left out.
        outliers_simulated: such images from the simulator: items of other labels.
        label_map: JSON file, name in the data -> label.
        simulator_images: images to render where `root` is None; a fifth of them is the val split.
        note: what whoever ships a bundle must know of the data; it is written into the manifest
            beside the licences.
        drop_suspect: leave out training images whose label the set's maker doubts.
    """

    root: Path | None = None
    also: tuple[Path, ...] = ()
    repeat: dict[str, PositiveFloat] = Field(default_factory=dict)
    outliers: tuple[Path, ...] = ()
    outliers_simulated: int = Field(default=400, ge=0)
    label_map: Path | None = None
    simulator_images: int = Field(default=3000, ge=50)
    drop_suspect: bool = True
    note: str = ""


class ModelConfig(StrictModel):
    """Which network.

    Attributes:
        name: a classifier that ends in a linear layer, by torchvision's name, or by timm's as
            "timm:NAME".
        weights: "pretrained" (torchvision's or timm's own ImageNet weights, downloaded), "scratch",
            a .safetensors or .pt file, or a bundle (.onnx) of the same network.
        size_px: side of the square network input in training.
        export_px: side of a bundle's input, where it is another. A little larger pays, for
            augmentation shows items larger than a bin sees them. Source: Touvron et al., "Fixing
            the train-test resolution discrepancy", NeurIPS 2019.
        fit: see PreprocessSpec.
        dropout: before the classifier.
    """

    name: str = "timm:tf_efficientnet_lite2"
    weights: str = "pretrained"
    size_px: int = Field(default=224, ge=32, le=512)
    export_px: int | None = Field(default=None, ge=32, le=512)
    fit: Fit = Fit.STRETCH
    dropout: float = Field(default=0.2, ge=0, lt=1)

    def preprocess(self) -> PreprocessSpec:
        """Return the preprocessing of training images."""
        return PreprocessSpec(self.size_px, self.size_px, self.fit, "rgb")

    def bundle_preprocess(self) -> PreprocessSpec:
        """Return the preprocessing that validation, evaluation and bin share."""
        side = self.export_px or self.size_px
        return PreprocessSpec(side, side, self.fit, "rgb")


class RecipeConfig(StrictModel):
    """How it is trained.

    Attributes:
        epochs, batch_size, learning_rate, weight_decay: AdamW with warm-up and cosine decay.
        warmup_epochs: linear warm-up.
        label_smoothing: 0..1.
        mixup_alpha: Beta parameter of mixup; 0 turns it off.
        ema_decay: of the weights' moving average that is evaluated and exported; 0 turns it off.
        class_weighted: weigh labels by inverse frequency (square root) in the loss.
        augment: strength 0..1 of the image augmentation.
        background_swap: share of the images with a plain background whose item is laid on another
            floor (training/background.py).
        outlier_share: images of no label in an epoch, as a share of the labelled ones.
        mixup_off_epochs: at the end, trained without mixing: the network then sees images as they
            are.
        cutmix: share of the batches mixed by CutMix instead of mixup; the others are mixed by mixup
            if mixup_alpha is above 0.
        freeze_backbone_epochs: at the beginning, in which the head alone learns and the network
            stays as it came. Source: Kumar et al., "Fine-Tuning can Distort Pretrained Features"
            (LP-FT), ICLR 2022.
        freeze_stages: leading stages of the network that keep their first weights; they cost no
            backward pass. Set it to 0, and layer_decay to 1, for weights "scratch".
        freeze_norms: batch normalisation keeps its first statistics, scale and shift. A network
            that learns a new place beside the old one would else get the mean of both.
        layer_decay: learning rate of a stage, as a share of that of the stage after it.
        teacher_weight: share of the loss that follows the teachers, if the run has any; the labels
            have the rest.
        teacher_temperature: logits of both are divided by it in that part.
        bf16: bfloat16 autocast; "auto" takes it on a GPU, or a CPU with AMX. On one with
            AVX512-BF16 it is a third slower than float32, on others a scalar loop, 12 times slower.
    """

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=2.0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    mixup_alpha: float = Field(default=0.4, ge=0)
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    class_weighted: bool = False
    augment: float = Field(default=1.0, ge=0, le=1)
    background_swap: float = Field(default=0.45, ge=0, le=1)
    outlier_share: float = Field(default=0.3, ge=0, le=1)
    mixup_off_epochs: int = Field(default=5, ge=0)
    cutmix: float = Field(default=0.2, ge=0, le=1)
    freeze_backbone_epochs: int = Field(default=0, ge=0)
    freeze_stages: int = Field(default=1, ge=0)
    freeze_norms: bool = False
    layer_decay: float = Field(default=0.85, gt=0, le=1)
    teacher_weight: float = Field(default=0.8, ge=0, le=1)
    teacher_temperature: float = Field(default=2.0, gt=0)
    bf16: Literal["auto"] | bool = "auto"


class TrainConfig(StrictModel):
    """The whole of one training run.

    Attributes:
        teachers: folders of finished runs with the same labels, whose mean answer to the very image
            that the network is shown is learnt beside the labels. Their inputs may be of other
            sizes. Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network",
            2015; same views for both, and patience: Beyer et al., "Knowledge distillation: A good
            teacher is patient and consistent", CVPR 2022.
        out: run folder: checkpoint, history, report.
        seed: the same seed on the same machine gives the same figures; see `deterministic`.
        deterministic: of a GPU; without it a training step takes half of the time (73 and 34 ms for
            128 images of EfficientNet-Lite 2 at 224 px on an H100), and each run gives other
            figures. A CPU's are the same either way.
        threads: of torch on the CPU; 0 takes all cores.
        loader_workers: processes that make batches; 0 makes them in a thread beside torch; None
            takes a process for each core but one where a GPU trains, else 0. Batches are the same
            whoever makes them.
        device: "auto" takes a GPU where there is one.
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    recipe: RecipeConfig = RecipeConfig()
    teachers: tuple[Path, ...] = ()
    out: Path = Path("runs/train")
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)
    loader_workers: int | None = Field(default=None, ge=0)
    deterministic: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
