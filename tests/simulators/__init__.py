"""First-class doubles of what a bin meets: time, cameras, lids, hubs.

They have rules of their own; none is a mock.
"""

from simulators.camera import ScriptedCamera
from simulators.clock import ManualClock
from simulators.hub import HubDouble
from simulators.lid import FakeLid

__all__ = ["FakeLid", "HubDouble", "ManualClock", "ScriptedCamera"]
