fn main() -> std::process::ExitCode {
    lowtide::cli::main()
}
