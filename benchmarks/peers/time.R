# The worker of the R adapters:
#   Rscript time.R ADAPTER.R COLUMNS_FOLDER OUT key=value …
# Reads the columns, sources the adapter, times its fit, writes one JSON object.
# Exit status 3: a package is not installed.

arguments <- commandArgs(trailingOnly = TRUE)
pairs <- regmatches(arguments[-(1:3)], regexpr("=", arguments[-(1:3)]), invert = TRUE)
problem <- setNames(lapply(pairs, `[[`, 2), vapply(pairs, `[[`, "", 1))
for (name in c("nodes", "threads", "repeats", "budget")) problem[[name]] <- as.numeric(problem[[name]])

quoted <- function(text) {
  text <- gsub("[[:cntrl:]]+", " ", gsub('"', "'", gsub("\\", "/", text, fixed = TRUE), fixed = TRUE))
  paste0('"', text, '"')
}
numbers <- function(x) paste0("[", paste(sprintf("%.17g", x), collapse = ", "), "]")
put <- function(...) {
  fields <- list(...)
  cat("{", paste0(quoted(names(fields)), ": ", unlist(fields), collapse = ", "), "}\n", file = arguments[3])
}

source(arguments[1])
reason <- refuses(problem)
if (reason != "") {
  put(skipped = quoted(reason))
  quit(status = 0)
}
for (package in packages) {
  if (!requireNamespace(package, quietly = TRUE)) {
    cat(package, "is not installed\n", file = stderr())
    quit(status = 3)
  }
}

read_column <- function(name, type) {
  path <- file.path(arguments[2], name)
  if (type == "number") return(readBin(path, "double", n = file.size(path) / 8, endian = "little"))
  codes <- readBin(path, "integer", n = file.size(path) / 4, size = 4, endian = "little")
  levels <- readLines(paste0(path, ".levels"), encoding = "UTF-8")
  structure(codes, levels = levels, class = "factor")
}
schema <- read.delim(file.path(arguments[2], "schema.tsv"), header = FALSE, col.names = c("name", "type"))
data <- as.data.frame(setNames(Map(read_column, schema$name, schema$type), schema$name))

pieces <- if (problem$by == "") list(data) else split(data, data[[problem$by]], drop = TRUE)
call_fit <- function() lapply(pieces, fit, problem = problem)

peak_mb <- function() {
  status <- tryCatch(readLines("/proc/self/status"), error = function(e) character())
  line <- grep("^VmHWM:", status, value = TRUE)
  if (length(line)) as.numeric(gsub("[^0-9]", "", line)) / 1024 else NaN
}
loaded <- peak_mb()

remarks <- character()
quietly <- function(expression) {
  withCallingHandlers(expression, warning = function(w) {
    remarks <<- unique(c(remarks, conditionMessage(w)))
    invokeRestart("muffleWarning")
  }, message = function(m) {
    remarks <<- unique(c(remarks, conditionMessage(m)))
    invokeRestart("muffleMessage")
  })
}

first <- system.time(fitted <- quietly(call_fit()), gcFirst = FALSE)[["elapsed"]]

# As many warm calls as the time of one allows; the same rule as in worker.py.
warm_calls <- function(seconds) {
  if (seconds > problem$budget) return(0)
  allowed <- if (seconds < 0.03) 31 else if (seconds < 0.3) 15 else if (seconds < 2) 5 else if (seconds < 6) 3 else 1
  min(allowed, problem$repeats)
}
clock <- function() as.numeric(Sys.time())
once <- function() {
  begin <- clock()
  quietly(call_fit())
  clock() - begin
}
cpu_begin <- sum(proc.time()[1:2])
times <- if (warm_calls(first) > 0) once() else numeric()
if (length(times)) times <- c(times, vapply(seq_len(warm_calls(times[1]) - 1), function(i) once(), 0))
cpu <- sum(proc.time()[1:2]) - cpu_begin

answers <- Map(answer, fitted, pieces, MoreArgs = list(problem = problem))
versions <- c(R = as.character(getRversion()),
              vapply(packages, function(p) as.character(packageVersion(p)), ""))
put(
  first = sprintf("%.17g", first),
  times = numbers(times),
  cpu = sprintf("%.17g", cpu),
  loaded_mb = if (is.nan(loaded)) "null" else sprintf("%.17g", loaded),
  loglik = sprintf("%.17g", sum(vapply(answers, function(a) a$loglik, 0))),
  beta = if (length(answers) == 1) numbers(answers[[1]]$beta) else "[]",
  remarks = paste0("[", paste(quoted(head(remarks, 3)), collapse = ", "), "]"),
  versions = paste0("{", paste0(quoted(names(versions)), ": ", quoted(versions), collapse = ", "), "}")
)
