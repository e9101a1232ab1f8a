# glmmTMB: maximum likelihood by default, standard errors computed in the fit.

packages <- c("glmmTMB", "TMB", "Matrix")

refuses <- function(problem) if (problem$nodes > 1) "it has no quadrature" else ""

fit <- function(data, problem) {
  formula <- as.formula(problem$formula)
  fitted <- glmmTMB::glmmTMB(formula, data, family = get(problem$family)(),
                             control = glmmTMB::glmmTMBControl(parallel = problem$threads))
  stats::vcov(fitted)
  fitted
}

answer <- function(fitted, data, problem) {
  list(loglik = as.numeric(logLik(fitted)), beta = unname(glmmTMB::fixef(fitted)$cond))
}
