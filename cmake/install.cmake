# `cmake --install build --prefix DIR`: the program, the libraries, their headers, and a package for find_package(Facet).
include(CMakePackageConfigHelpers)

add_library(facet_facet INTERFACE)  # Facet::Facet, all rooms
set_target_properties(facet_facet PROPERTIES EXPORT_NAME Facet)
target_link_libraries(facet_facet INTERFACE facet_train facet_models)
add_library(Facet::Facet ALIAS facet_facet)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Facet)
install(TARGETS facet_facet EXPORT FacetTargets)
install(TARGETS facet RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT FacetTargets NAMESPACE Facet:: DESTINATION ${package_dir})
configure_package_config_file(cmake/FacetConfig.cmake.in ${PROJECT_BINARY_DIR}/FacetConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/FacetConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/FacetConfig.cmake ${PROJECT_BINARY_DIR}/FacetConfigVersion.cmake DESTINATION ${package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
