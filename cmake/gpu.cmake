# The GPU backends: static libraries with one set of symbols (facet::gpu::*), of which a program links one.
#
#   facet_gpu_cuda       tensor/gpu/*.cu by nvcc, tensor/gpu/cuda/; only where the CUDA toolkit is found
#   facet_gpu_emulated   the same .cu files as plain C++, tensor/gpu/emulator/; needs neither GPU nor toolkit
#   facet_gpu_emulated_asan, facet_gpu_emulated_tsan   the same again under sanitizers, for tests
#
# The property FACET_GPU of a program names its backend; it starts as the variable FACET_GPU.
define_property(TARGET PROPERTY FACET_GPU INITIALIZE_FROM_VARIABLE FACET_GPU)

option(FACET_CUDA "build for GPUs when the CUDA toolkit is found" ON)
set(FACET_HAS_CUDA OFF)
if(FACET_CUDA)
  find_package(CUDAToolkit 12.8 QUIET)
  if(CUDAToolkit_FOUND AND CUDAToolkit_NVCC_EXECUTABLE)
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
    set(CMAKE_CUDA_ARCHITECTURES OFF)  # flags below; CMake 3.25 knows neither every name nor -std=c++20 of nvcc 13
    enable_language(CUDA)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA_STANDARD 20)
    set(FACET_HAS_CUDA ON)
    if(CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
    endif()
  endif()
endif()

if(FACET_HAS_CUDA)
  # What the GPUs of this machine are; without one, Hopper.
  if(NOT DEFINED CACHE{FACET_CUDA_ARCHS})
    set(archs 90a)
    execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE found RESULT_VARIABLE code ERROR_QUIET)
    if(code EQUAL 0 AND found MATCHES "^[0-9]+\\.[0-9]")
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" archs "${found}")
      list(REMOVE_DUPLICATES archs)
      list(TRANSFORM archs REPLACE "\\." "")
      list(TRANSFORM archs REPLACE "^90$" "90a")
    endif()
    set(FACET_CUDA_ARCHS "${archs}" CACHE STRING "compute capabilities to build kernels for, such as 80;89;90a")
  endif()
  message(STATUS "CUDA: ${CUDAToolkit_VERSION}, kernels for ${FACET_CUDA_ARCHS}")
  set(gpu_default cuda)
else()
  message(STATUS "CUDA: not found or switched off; the GPU is emulated in tests")
  set(gpu_default emulated)
endif()
set(FACET_GPU ${gpu_default})

file(GLOB gpu_kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tensor/gpu/*.cu)
file(GLOB gpu_host CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tensor/gpu/*.cpp)

# cuBLASLt and cuDNN are opened by the running program; here is where they may lie, and their headers for the files that call them.
set_property(SOURCE ${PROJECT_SOURCE_DIR}/tensor/gpu/cuda_library.cpp APPEND PROPERTY
  COMPILE_DEFINITIONS "FACET_CUDA_LIBRARIES=\"${CUDAToolkit_LIBRARY_DIR}\"")
set(library_sources ${PROJECT_SOURCE_DIR}/tensor/gpu/lt.cpp ${PROJECT_SOURCE_DIR}/tensor/gpu/cuda/lt_api.cpp
  ${PROJECT_SOURCE_DIR}/tensor/gpu/emulator/lt_api.cpp ${PROJECT_SOURCE_DIR}/tensor/gpu/cudnn_graph.cpp
  ${PROJECT_SOURCE_DIR}/tensor/gpu/cudnn_attention_graph.cpp ${PROJECT_SOURCE_DIR}/tensor/gpu/cudnn_attention.cpp)
if(FACET_HAS_CUDA)
  foreach(folder ${CUDAToolkit_INCLUDE_DIRS})
    set_property(SOURCE ${library_sources} APPEND PROPERTY COMPILE_OPTIONS -isystem ${folder})
  endforeach()
endif()

# facet_gpu_library(NAME sources...)
function(facet_gpu_library name)
  add_library(facet_gpu_${name} STATIC ${gpu_host} ${ARGN})
  target_include_directories(facet_gpu_${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_features(facet_gpu_${name} PUBLIC cxx_std_20)
  target_link_libraries(facet_gpu_${name} PUBLIC facet_tensor PRIVATE ${CMAKE_DL_LIBS})
  set_target_properties(facet_gpu_${name} PROPERTIES EXPORT_NAME gpu_${name})
endfunction()

# facet_nvcc_flags(TARGET capabilities...): how kernels are compiled, and what ptxas says of them is kept for tests/nvcc. 8.9 takes the code
# made for 8.0: half the time, and no kernel of ours tells the two apart. The warning that is switched off is about functions for both sides
# that read a variable of the host, as those of tensor/profile.h do; a kernel that calls one does not compile.
function(facet_nvcc_flags target)
  set(gencode)
  foreach(arch ${ARGN})
    string(REPLACE "89" "80" virtual ${arch})
    list(APPEND gencode "SHELL:-gencode arch=compute_${virtual},code=sm_${arch}")
  endforeach()
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-O3;--expt-relaxed-constexpr;--threads=1;SHELL:-Xptxas -v;--diag-suppress=20094;${gencode}>")
  set_target_properties(${target} PROPERTIES CUDA_COMPILER_LAUNCHER
    "${PROJECT_SOURCE_DIR}/cmake/keep_report.sh;${CMAKE_CUDA_COMPILER_LAUNCHER}")
endfunction()

if(FACET_HAS_CUDA)
  file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tensor/gpu/cuda/*.cpp ${PROJECT_SOURCE_DIR}/tensor/gpu/cuda/*.cu)
  facet_gpu_library(cuda ${gpu_kernels} ${cuda_sources})
  facet_nvcc_flags(facet_gpu_cuda ${FACET_CUDA_ARCHS})
  list(JOIN FACET_CUDA_ARCHS ", " archs_text)
  target_compile_definitions(facet_gpu_cuda PRIVATE "FACET_CUDA_ARCHS_TEXT=\"${archs_text}\"")
  target_link_libraries(facet_gpu_cuda PRIVATE CUDA::cudart_static)

  # The other capabilities kernels must keep compiling for (tests/nvcc).
  set(other_archs 80 89 90a)
  list(REMOVE_ITEM other_archs ${FACET_CUDA_ARCHS})
  add_library(facet_gpu_other_archs OBJECT EXCLUDE_FROM_ALL ${gpu_kernels} tensor/gpu/cuda/probe.cu)
  target_include_directories(facet_gpu_other_archs PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_features(facet_gpu_other_archs PRIVATE cxx_std_20)
  target_compile_definitions(facet_gpu_other_archs PRIVATE FACET_CUDA_ARCHS_TEXT="")
  target_compile_options(facet_gpu_other_archs PRIVATE -Xcompiler=-O0)
  facet_nvcc_flags(facet_gpu_other_archs ${other_archs})
endif()

# Every kernel file is included by a C++ file of its own, so that both compilers see the same lines.
file(GLOB emulator_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tensor/gpu/emulator/*.cpp)
set(emulated_kernels)
foreach(source ${gpu_kernels})
  get_filename_component(kernel ${source} NAME_WE)
  set(wrapper ${PROJECT_BINARY_DIR}/generated/gpu/${kernel}.cpp)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"tensor/gpu/${kernel}.cu\"\n" @ONLY)
  list(APPEND emulated_kernels ${wrapper})
endforeach()
# Kernels read memory as packs of other types; g++ -O2 is entitled to break that without the first flag.
set(emulated_options -fno-strict-aliasing -Wno-unknown-pragmas)
facet_gpu_library(emulated ${emulated_kernels} ${emulator_sources})
target_compile_options(facet_gpu_emulated PRIVATE ${emulated_options})

# The emulated backend once more for each sanitizer: asan (addresses and undefined behaviour) and tsan (races between CUDA threads). Only
# kernels and emulator are instrumented; programs are the objects of the plain ones, linked with another backend.
if(FACET_TESTS)
  set(asan_flags -fsanitize=address,undefined -fno-sanitize-recover=all)
  set(tsan_flags -fsanitize=thread)
  # Clang's race detector makes and switches fibers several times as fast as GCC's. It stands in for g++ in compiling and linking.
  find_program(FACET_CLANG NAMES clang++-14 clang++-15 clang++-16 clang++)
  if(FACET_CLANG)
    set(tsan_compiler ${PROJECT_SOURCE_DIR}/cmake/instead.sh "${CCACHE} ${FACET_CLANG}")
    set(tsan_linker ${PROJECT_SOURCE_DIR}/cmake/instead.sh "${FACET_CLANG}")
  endif()
  set(emulated_options ${emulated_options} -O1 -g1 -w)

  facet_gpu_library(emulated_asan ${emulated_kernels} ${emulator_sources})
  # The race detector must not see what the emulator does.
  add_library(facet_gpu_emulator_unseen OBJECT ${emulator_sources})
  target_include_directories(facet_gpu_emulator_unseen PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(facet_gpu_emulator_unseen PRIVATE FACET_EMULATOR_TSAN)
  target_compile_options(facet_gpu_emulator_unseen PRIVATE ${emulated_options})
  facet_gpu_library(emulated_tsan ${emulated_kernels} $<TARGET_OBJECTS:facet_gpu_emulator_unseen>)
  foreach(kind asan tsan)
    target_compile_options(facet_gpu_emulated_${kind} PRIVATE ${emulated_options} ${${kind}_flags})
    target_link_options(facet_gpu_emulated_${kind} INTERFACE ${${kind}_flags})
    set_target_properties(facet_gpu_emulated_${kind} PROPERTIES EXCLUDE_FROM_ALL TRUE)
    if(${kind}_compiler)
      set_target_properties(facet_gpu_emulated_${kind} PROPERTIES CXX_COMPILER_LAUNCHER "${${kind}_compiler}")
    endif()
  endforeach()
  set_target_properties(facet_gpu_emulator_unseen PROPERTIES EXCLUDE_FROM_ALL TRUE)
endif()

# facet_sanitized(PROGRAM asan|tsan): PROGRAM_asan or PROGRAM_tsan from PROGRAM's objects, with that backend.
function(facet_sanitized program kind)
  add_executable(${program}_${kind} $<TARGET_OBJECTS:${program}>)
  get_target_property(libraries ${program} LINK_LIBRARIES)
  target_link_libraries(${program}_${kind} PRIVATE ${libraries})
  set_target_properties(${program}_${kind} PROPERTIES FACET_GPU emulated_${kind} LINKER_LANGUAGE CXX)
  if(${kind}_linker)
    set_target_properties(${program}_${kind} PROPERTIES CXX_LINKER_LAUNCHER "${${kind}_linker}")
  endif()
endfunction()

# Whoever links the tensors gets the backend its program asks for.
target_link_libraries(facet_tensor INTERFACE $<BUILD_INTERFACE:facet_gpu_$<TARGET_PROPERTY:FACET_GPU>> $<INSTALL_INTERFACE:Facet::gpu_${gpu_default}>)
install(TARGETS facet_gpu_${gpu_default} EXPORT FacetTargets)
