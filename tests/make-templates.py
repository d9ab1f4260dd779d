#!/usr/bin/env python3
"""Makes the 34 template archives of a Spec Kit release, small and always the same, to try the server with.

    python3 tests/make-templates.py DIRECTORY [VERSION]

Writes spec-kit-template-AGENT-SCRIPT-vVERSION.zip for 17 agents and two kinds of script, and prints their paths.
The files are stored uncompressed with a fixed date, so that their digests are the same on every machine.
"""

import pathlib
import sys
import zipfile

# Each agent with the folder it reads its commands from.
AGENTS = {
    "claude": ".claude/commands",
    "gemini": ".gemini/commands",
    "copilot": ".github/prompts",
    "cursor-agent": ".cursor/commands",
    "qwen": ".qwen/commands",
    "opencode": ".opencode/command",
    "codex": ".codex/prompts",
    "windsurf": ".windsurf/workflows",
    "kilocode": ".kilocode/workflows",
    "auggie": ".augment/commands",
    "roo": ".roo/commands",
    "codebuddy": ".codebuddy/commands",
    "qoder": ".qoder/commands",
    "amp": ".agents/commands",
    "shai": ".shai/commands",
    "q": ".amazonq/prompts",
    "bob": ".bob/commands",
}
COMMANDS = {
    "constitution": "Write down the principles of this project.",
    "specify": "Describe what is to be built, and why.",
    "plan": "Choose how it is to be built.",
    "tasks": "Break the plan into tasks.",
    "implement": "Carry out the tasks.",
}
SCRIPTS = {
    "sh": ("bash", "sh", '#!/usr/bin/env bash\nset -euo pipefail\nmkdir -p "specs/$1"\n'),
    "ps": ("powershell", "ps1", 'New-Item -ItemType Directory -Force -Path "specs/$($args[0])" | Out-Null\n'),
}


def files(agent, script, version):
    """The paths in an archive, and their text."""
    folder, ending, body = SCRIPTS[script]
    create = f".specify/scripts/{folder}/create-new-feature.{ending}"
    yield ".specify/memory/constitution.md", "# Constitution\n\n## Principles\n\n1. …\n"
    yield create, body
    for document in ("spec", "plan", "tasks"):
        sections = "".join(f"\n## Section {n}\n\n[Fill in.]\n" for n in range(1, 41))
        yield f".specify/templates/{document}-template.md", f"# {document.title()}: [FEATURE]\n{sections}"
    for name, purpose in COMMANDS.items():
        text = f"---\ndescription: {purpose}\nscript: {create}\n---\n\n{purpose}\n\n"
        yield f"{AGENTS[agent]}/speckit.{name}.md", f"{text}Template {version} for {agent}.\n"


def make(directory, version):
    for agent in AGENTS:
        for script in SCRIPTS:
            path = directory / f"spec-kit-template-{agent}-{script}-v{version}.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for name, text in files(agent, script, version):
                    entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
                    entry.create_system = 3  # Unix, on every system, for the permissions
                    entry.external_attr = (0o100755 if name.endswith(".sh") else 0o100644) << 16
                    archive.writestr(entry, text)
            yield path


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for path in make(directory, sys.argv[2] if len(sys.argv) == 3 else "0.0.91"):
        print(path)


if __name__ == "__main__":
    main()
