"""Imported, hides from this process that its CPU has bf16.

Training is then in float32 on every machine: what tests compare must not depend on it, nor on who can tell.
"""

from typing import Any

import torch

cpu: Any = torch.cpu
cpu.get_capabilities = lambda: {"architecture": "x86_64"}
