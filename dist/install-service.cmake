# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs when things are installed: below CMAKE_INSTALL_PREFIX, and DESTDIR in front of it. Folders are those of GNUInstallDirs.

function(full_path out dir)
  cmake_path(ABSOLUTE_PATH dir BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}" NORMALIZE)
  set(${out} "${dir}" PARENT_SCOPE)
endfunction()

full_path(sbindir "${CBT_SBINDIR}")
full_path(libdir "${CBT_LIBDIR}")
full_path(libexecdir "${CBT_LIBEXECDIR}")
full_path(sysconfdir "${CBT_SYSCONFDIR}")
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr" AND sysconfdir STREQUAL "/usr/etc")
  set(sysconfdir /etc)
endif()
# Where systemd looks below /usr and /usr/local; for another prefix see docs/operations.md.
set(systemd "${CMAKE_INSTALL_PREFIX}/lib")

string(SHA1 made "${sbindir} ${libdir} ${libexecdir} ${sysconfdir}") # two installs may run at once
string(PREPEND made "${CBT_DIST_BUILD}/")
foreach(name cbt-backupd.service cbt-backup.conf)
  configure_file("${CBT_DIST}/${name}.in" "${made}/${name}" @ONLY)
endforeach()
file(INSTALL "${made}/cbt-backupd.service" DESTINATION "${systemd}/systemd/system")
file(INSTALL "${CBT_DIST}/sysusers.conf" DESTINATION "${systemd}/sysusers.d" RENAME cbt-backup.conf)
file(INSTALL "${CBT_DIST}/tmpfiles.conf" DESTINATION "${systemd}/tmpfiles.d" RENAME cbt-backup.conf)
file(INSTALL "${made}/cbt-backup.conf" DESTINATION "${sysconfdir}/cbt-backup")
