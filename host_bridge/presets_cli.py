# SPDX-License-Identifier: Apache-2.0
"""`vs3r presets`: lists the presets, shows what one means, keeps settings as a new one."""

from typing import Annotated

import typer

presets_app = typer.Typer(no_args_is_help=True, help="Presets: list, show, save.")

AsJson = Annotated[bool, typer.Option("--json", help="Write NDJSON on standard output.")]


@presets_app.command("list")
def list_presets() -> None:
    """List the presets, built-in ones first."""
    from host_bridge.presets import user_presets
    from vs3r_engine.settings import PRESETS

    for name in PRESETS:
        print(name)
    for name in user_presets():
        print(f"{name} (yours)")


@presets_app.command("show")
def show_preset(name: Annotated[str, typer.Argument(help="The preset.")], as_json: AsJson = False) -> None:
    """Show every setting of a preset, and what it means."""
    from host_bridge.presets import preset_values
    from host_bridge.progress import write_json
    from vs3r_engine.settings import DESCRIPTORS, GROUPS, Settings

    settings = Settings().with_values(preset_values(name))
    values, changed = settings.values(), settings.changed()
    if as_json:
        write_json(values)
        return
    group = ""
    for descriptor in DESCRIPTORS:
        if descriptor.group != group:
            group = descriptor.group
            print(f"\n{GROUPS[group]}")
        mark = "*" if descriptor.key in changed else " "
        print(f"{mark} {descriptor.key:32} {values[descriptor.key]!s:14} {descriptor.help}")


@presets_app.command("save")
def save_preset(
    name: Annotated[str, typer.Argument(help="The new preset's name.")],
    preset: Annotated[str, typer.Option(help="The preset to begin with.")] = "natural",
    assignments: Annotated[list[str], typer.Option("--set", help="A setting, such as path.smoothness=70. Repeat for more.")] = [],  # noqa: B006
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace it.")] = False,
) -> None:
    """Keep settings under a name: `vs3r presets save calm --set path.smoothness=80`."""
    from host_bridge.presets import chosen_values, save
    from vs3r_engine.settings import Settings

    print(save(name, Settings().with_values(chosen_values(preset, assignments)), overwrite=force))
