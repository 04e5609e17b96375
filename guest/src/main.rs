//! One static binary that is the guest's init when the kernel starts it, and a load otherwise.

mod cgroup;
mod footprint;
mod init;
mod load;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().next().as_deref() == Some(init::PROGRAM) {
        init::main()
    } else {
        argh::from_env::<load::Load>().run()
    }
}
