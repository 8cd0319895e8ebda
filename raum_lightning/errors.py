"""What a user can mend: one sentence that names the file or the key, its value, and what to do.

The command line shows a `UserError` as one line and ends with exit code 2. Any other exception is a defect of this
package: it ends in a traceback and exit code 1. `assert` and `zip(strict=True)` check what cannot happen.
"""


class UserError(ValueError):
    """A mistake that whoever started the program can mend; the message says how."""


class ConfigError(UserError):
    """An option, a key of a YAML file or an argument has a value that cannot be used."""


class CaseError(UserError):
    """A case cannot be used as it is; the message names the file and what is wrong with it."""


class LabelError(UserError):
    """A mask holds a value that its data set does not define."""


class GeometryError(UserError):
    """The voxels of cases differ from those that a network is trained on; the message names the cases."""


class SplitError(UserError):
    """The cases cannot be split as asked."""


class RunError(UserError):
    """The run that was asked for is not there, or cannot be used in this way."""


class OutputError(UserError):
    """A file cannot be written, or would replace one that was written for another purpose."""


class CheckpointError(UserError):
    """A checkpoint could not be written, or is not what was written."""


class TrainingError(UserError):
    """Training cannot continue."""


class ExportError(UserError):
    """A network cannot be exported as asked, or a file is no export; the message names the file."""


class EvaluationError(UserError):
    """Two folders of masks cannot be compared; the message says what is missing."""


class FigureError(UserError):
    """A picture cannot be drawn or written as asked."""
