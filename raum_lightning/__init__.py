"""raum: brain tumour segmentation in MRI with a hand-written UNETR, TorchIO patches and PyTorch Lightning."""

__version__ = "0.1.0"
