fn main() -> std::process::ExitCode {
    lowtide::commands::main()
}
