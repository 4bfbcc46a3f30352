# SPDX-License-Identifier: Apache-2.0
# The plug-in for Windows, built on Linux (Debian: g++-mingw-w64-x86-64-posix). Run under Wine, never on Windows itself.
#   cmake -S plugin -B build -DCMAKE_TOOLCHAIN_FILE=openfx/cmake/windows-mingw.cmake
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_CXX_COMPILER x86_64-w64-mingw32-g++-posix)
set(CMAKE_CXX_FLAGS_INIT "-D_WIN32_WINNT=0x0A00")
set(CMAKE_FIND_ROOT_PATH /usr/x86_64-w64-mingw32)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
