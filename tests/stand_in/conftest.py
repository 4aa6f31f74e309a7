"""The cases run in a process of their own (`test_late_device`), which has the device of `device.py`."""

import os

collect_ignore = [] if "GRADWATCH_LATE_DEVICE" in os.environ else ["cases"]
