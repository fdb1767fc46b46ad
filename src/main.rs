//! The `sailvol` program.

fn main() -> std::process::ExitCode {
    sailvol::cli::main()
}
