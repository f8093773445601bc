"""`grpc-breaker completion bash`: a script by which bash completes subcommands, options and names of breakers."""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

from grpc_breaker._commands.filtering import STATES
from grpc_breaker._commands.showing import say

_OPTION: Final = re.compile(r"--[a-z][a-z-]*")

_SCRIPT: Final = """\
# eval "$(grpc-breaker completion bash)", in ~/.bashrc
_grpc_breaker() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" command="${{COMP_WORDS[1]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    local word="${{line##*[[:space:]]}}" words="" name
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        words="{commands}"
    elif [[ $before == --state ]]; then
        words="{states}"
    elif [[ $before == --*file || $before == --directory ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    elif [[ $word == -* ]]; then
        case $command in
{options}
        esac
    else
        case $command in
            {named})
                # A name is whatever a client called: bash must not expand it, so it is no word for compgen.
                while IFS= read -r name; do
                    [[ $name == "$word"* ]] && printf -v name %q "$name" && COMPREPLY+=("$name")
                done < <("$1" list --names 2>/dev/null) ;;
            completion) words="bash" ;;
            *) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        esac
    fi
    mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -W "$words" -- "$word")
    # Bash takes a word apart at ":" and "@", and wants only the last part back.
    local part="${{COMP_WORDS[COMP_CWORD]}}"
    [[ $part == [:@=] ]] && part=""
    COMPREPLY=("${{COMPREPLY[@]#"${{word%"$part"}}"}}")
}}
complete -F _grpc_breaker grpc-breaker
"""


def add_to(commands: Any) -> None:
    """Add the command."""
    about = "Print a script for a shell that completes commands, options and names of breakers."
    parser: argparse.ArgumentParser = commands.add_parser("completion", help=about, description=about)
    parser.add_argument("shell", choices=["bash"], help="which shell")
    parser.set_defaults(run=lambda _options: run(commands.choices))  # pyright: ignore[reportUnknownLambdaType]


def run(commands: dict[str, argparse.ArgumentParser]) -> int:
    """Print it, for the commands that there are."""
    options = {name: sorted(set(_OPTION.findall(parser.format_help()))) for name, parser in commands.items()}
    named = [name for name, parser in commands.items() if parser.get_default("named")]
    say(
        _SCRIPT.format(
            commands=" ".join(commands),
            states=" ".join(STATES),
            named="|".join(named),
            options="\n".join(f'            {name}) words="{" ".join(it)}" ;;' for name, it in options.items()),
        ).rstrip()
    )
    return 0
