//! `sailvol completions`.

use clap_complete::Shell;
use clap_complete::env::Shells;

use super::complete::VARIABLE;
use super::context::Context;
use crate::answer::{Failure, FailureKind};

/// Print the completion script of a shell
///
/// It completes commands and options, and asks the program for names: volumes, mounts, records, stashes, paths in volumes.
/// With --json: an object with the shell and the script.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let script = match args.shell {
        Shell::Bash => BASH.replace("VARIABLE", VARIABLE),
        shell => registration(&shell.to_string())?,
    };
    let answer = serde_json::json!({ "shell": args.shell.to_string(), "script": script });
    context.print(&answer, |_| script)
}

/// What clap_complete has for a shell.
fn registration(shell: &str) -> Result<String, Failure> {
    let failed = |text: String| Failure::new(FailureKind::Failed, text);
    let shells = Shells::builtins();
    let known = shells
        .completer(shell)
        .ok_or_else(|| failed(format!("no completion for {shell}")))?;
    let mut script = Vec::new();
    known
        .write_registration(VARIABLE, "sailvol", "sailvol", "sailvol", &mut script)
        .and_then(|()| String::from_utf8(script).map_err(std::io::Error::other))
        .map_err(|e| failed(format!("no completion for {shell}: {e}")))
}

/// Bash takes words apart at colons and equals signs, of which paths in volumes, URLs and options have some: they are put
/// together again, and what bash takes for done is left out of the candidates.
const BASH: &str = r#"_sailvol() {
    local IFS=$'\013' words=() glue= word current part i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $i -gt 0 && ( -n $glue || $word == [:=]* ) && ${#words[@]} -gt 1 ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        glue=
        [[ $word == *[:=] ]] && glue=1
    done
    current=${words[${#words[@]}-1]}
    COMPREPLY=($(_CLAP_IFS="$IFS" _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) _CLAP_COMPLETE_COMP_TYPE="$COMP_TYPE" \
        _CLAP_COMPLETE_SPACE=false VARIABLE=bash sailvol -- "${words[@]}" 2>/dev/null)) || { COMPREPLY=(); return; }
    part=
    [[ $current == *[:=]* && $COMP_WORDBREAKS == *:* ]] && part=${current%"${current##*[:=]}"}
    [[ -n $part ]] && COMPREPLY=("${COMPREPLY[@]#"$part"}")
    for i in "${!COMPREPLY[@]}"; do
        # What the shell itself would take for something else.
        [[ ${COMPREPLY[i]} == *[!A-Za-z0-9_./:=@%+,~-]* ]] && printf -v "COMPREPLY[i]" %q "${COMPREPLY[i]}"
    done
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != *[=/:] ]] && COMPREPLY[0]+=" "
}
complete -o nospace -o bashdefault -F _sailvol sailvol
"#;
