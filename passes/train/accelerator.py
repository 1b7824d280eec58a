"""Any accelerator that torch knows, for Lightning Fabric, which has classes for cuda and mps alone."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric.accelerators.accelerator import Accelerator
from lightning_fabric.accelerators.registry import _AcceleratorRegistry


class TorchAccelerator(Accelerator):
    """Devices of the kind that torch finds, through ``torch.accelerator``."""

    def setup_device(self, device: torch.device) -> None:
        """Make it the current device of this process."""
        torch.accelerator.set_device_index(device)

    def teardown(self) -> None:
        """Give the memory that is free back to the device."""
        torch.accelerator.empty_cache()

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        """The number of devices, as it is given."""
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        """The first so many."""
        found = torch.accelerator.current_accelerator()
        assert found is not None
        return [torch.device(found.type, i) for i in range(devices)]

    @staticmethod
    def auto_device_count() -> int:
        """How many there are."""
        return torch.accelerator.device_count()

    @staticmethod
    def is_available() -> bool:
        """Whether there is one."""
        return torch.accelerator.is_available()

    @staticmethod
    def name() -> str:
        """The name that Fabric knows it by."""
        return "torch"

    @classmethod
    def register_accelerators(cls, accelerator_registry: _AcceleratorRegistry) -> None:
        """It is used by value, not by name."""
