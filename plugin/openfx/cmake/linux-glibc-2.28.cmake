# SPDX-License-Identifier: Apache-2.0
# The release for Linux, with zig's compiler (https://ziglang.org; `pip install ziglang`): runs from glibc 2.28 on (Rocky
# Linux 8). The first build compiles the C++ library, which takes minutes.
#   cmake -S plugin -B build -DCMAKE_TOOLCHAIN_FILE=openfx/cmake/linux-glibc-2.28.cmake
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
find_program(VS3R_ZIG NAMES zig python-zig REQUIRED)
set(CMAKE_CXX_COMPILER ${VS3R_ZIG} c++)
set(CMAKE_CXX_COMPILER_TARGET x86_64-linux-gnu.2.28)
set(CMAKE_CXX_FLAGS_INIT "-target x86_64-linux-gnu.2.28 -O2")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
