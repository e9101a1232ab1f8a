# clmm of ordinal: Laplace, or adaptive quadrature with one grouping factor; its Hessian is by differences.

packages <- "ordinal"

refuses <- function(problem) if (problem$family != "cumulative") "ordered categories only" else ""

fit <- function(data, problem) {
  data[[problem$response]] <- factor(data[[problem$response]], ordered = TRUE)
  fitted <- ordinal::clmm(as.formula(problem$formula), data, nAGQ = problem$nodes)
  stats::vcov(fitted)
  fitted
}

answer <- function(fitted, data, problem) {
  list(loglik = as.numeric(logLik(fitted)), beta = unname(fitted$beta))
}
