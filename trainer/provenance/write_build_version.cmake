# Fills in TEMPLATE as OUTPUT, which changes only if its content does. The commit is "unknown" if SOURCE_TREE is not the
# top of a git repository, as an unpacked archive is not; it ends with "+changes" if tracked files differ from it.
#   cmake -DHIPTRAIN_VERSION=0.1.0 -DSOURCE_TREE=DIR -DGIT=git -DTEMPLATE=FILE -DOUTPUT=FILE -P write_build_version.cmake
set(HIPTRAIN_COMMIT unknown)

function(ask_git result)
  execute_process(COMMAND "${GIT}" --no-optional-locks -C "${SOURCE_TREE}" ${ARGN}
    OUTPUT_VARIABLE answer OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    set(answer "")
  endif()
  set(${result} "${answer}" PARENT_SCOPE)
endfunction()

if(GIT)
  ask_git(top rev-parse --show-toplevel)
  file(REAL_PATH "${SOURCE_TREE}" source_tree)
  if(top STREQUAL source_tree)
    ask_git(commit describe --always --abbrev=12 "--exclude=*" --dirty=+changes)
    if(commit)
      set(HIPTRAIN_COMMIT "${commit}")
    endif()
  endif()
endif()
configure_file("${TEMPLATE}" "${OUTPUT}" @ONLY)
