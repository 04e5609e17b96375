require ${@bb.utils.contains('DISTRO_FEATURES', 'lowtide', 'lowtide-kernel.inc', '', d)}
