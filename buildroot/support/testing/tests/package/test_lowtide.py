import os

import infra.basetest


class TestLowtide(infra.basetest.BRTest):
    config = infra.basetest.BASIC_TOOLCHAIN_CONFIG + \
        """
        BR2_PACKAGE_LOWTIDE=y
        BR2_PACKAGE_LOWTIDE_PROFILE_GATEWAY=y
        BR2_TARGET_ROOTFS_CPIO=y
        # BR2_TARGET_ROOTFS_TAR is not set
        """

    def test_run(self):
        cpio_file = os.path.join(self.builddir, "images", "rootfs.cpio")
        self.emulator.boot(arch="armv7",
                           kernel="builtin",
                           options=["-initrd", cpio_file])
        self.emulator.login()

        self.assertRunOk("lowtide --version")

        # What the package installs as config can be used, and has the
        # profile that was chosen.
        self.assertRunOk("lowtide check --offline")
        self.assertRunOk("lowtide config | grep 'profile = \"gateway\"'")

        # The start script has started it.
        self.assertRunOk("/etc/init.d/S02lowtide status")
        self.assertRunOk("lowtide status")

        # It starts again, and does not run after it is stopped.
        self.assertRunOk("/etc/init.d/S02lowtide restart")
        self.assertRunOk("/etc/init.d/S02lowtide status")
        self.assertRunOk("/etc/init.d/S02lowtide stop")
        _, exit_code = self.emulator.run("pidof lowtide")
        self.assertNotEqual(exit_code, 0)
