"""`raum completion`: a script with which the shell completes verbs and keys."""

import argparse
import io
from contextlib import redirect_stdout, suppress

SCRIPT = """# completion of raum and lightning; zsh: autoload -U +X bashcompinit && bashcompinit, before this
_raum() {{
  local words= cur="${{COMP_WORDS[COMP_CWORD]}}"
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W "{verbs}" -- "$cur"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  case "$cur" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
    *) COMPREPLY=($(compgen -f -- "$cur")) ;;
  esac
}}
complete -o filenames -F _raum raum lightning
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("shell", choices=["bash", "zsh"], help="shell that reads the script")


def run(args: argparse.Namespace) -> int:
    """Print the script and return 0."""
    from raum_lightning.cli import TOOL_VERBS, TRAINER_VERBS

    options = {verb: _trainer_keys(verb) for verb in TRAINER_VERBS} | {verb: _tool_options(verb) for verb in TOOL_VERBS}
    cases = "\n".join(f"    {verb}) words='{' '.join(words)}' ;;" for verb, words in options.items())
    print(SCRIPT.format(verbs=" ".join(options), cases=cases), end="")
    return 0


def _trainer_keys(verb: str) -> list[str]:
    from raum_lightning.cli.trainer import run_trainer

    written = io.StringIO()
    with redirect_stdout(written), suppress(SystemExit):
        run_trainer([verb, "--keys"])
    return ["-c", *written.getvalue().split()]


def _tool_options(verb: str) -> list[str]:
    from raum_lightning.cli import module_of

    parser = argparse.ArgumentParser()
    module_of(verb).configure(parser)
    # argparse has no other list of them
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
