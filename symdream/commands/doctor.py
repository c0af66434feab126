"""Show what this machine can do, and about how long a run would take."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass
class Args:
    json: bool = False
    """Print JSON."""


def run(args: Args) -> int:
    from symdream.diffusion.inventory import inventory
    from symdream.diffusion.machine import look_at_machine
    from symdream.training.forecast import fits, seconds_per_step, time_estimates
    from symdream.ui import say

    machine = look_at_machine()
    bases = inventory()
    if not args.json:
        say("Timing a few training steps of sprite …")
    step = seconds_per_step(machine)
    settings = fits(machine)
    times = time_estimates(machine, step)
    if args.json:
        report = {
            "machine": asdict(machine),
            "bases": [asdict(base) for base in bases],
            "settings": [asdict(setting) for setting in settings],
            "times": [asdict(time) for time in times],
        }
        print(json.dumps(report, indent=2))
        return 0
    memory = "unknown" if machine.memory is None else f"{machine.memory / 1e9:.1f} GB of {machine.memory_kind} free"
    note = f" ({machine.note})" if machine.note else ""
    print(f"device    {machine.device}: {machine.device_name}, {machine.cores} CPU cores{note}")
    print(f"dtype     {machine.dtype} (what --dtype auto takes here)")
    print(f"memory    {memory}")
    print("versions  " + ", ".join(f"{name} {number}" for name, number in machine.versions.items()))
    print("\nBases")
    for base in bases:
        print(f"  {base.name:<8} {base.state:<14} {base.bytes / 1e6:>7,.0f} MB  {base.where}")
    print("\nWhat fits (estimated from parameter and activation counts)")
    for setting in settings:
        answer = {True: "fits", False: "too large", None: "unknown"}[setting.fits]
        flag = "--gradient-checkpointing" if setting.gradient_checkpointing else ""
        shown = f"batch {setting.batch_size}  {setting.bytes / 1e9:>5.1f} GB  {answer:<10} {flag}"
        print(f"  {setting.base:<8} {shown}".rstrip())
    print("\nHow long a run of the default length takes")
    for time in times:
        print(f"  {time.base:<8} {time.text}")
    return 0
