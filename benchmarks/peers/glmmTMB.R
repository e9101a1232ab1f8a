# glmmTMB: maximum likelihood by default, standard errors computed in the fit.

packages <- c("glmmTMB", "TMB", "Matrix")

families <- list(gaussian = stats::gaussian, binomial = stats::binomial, poisson = stats::poisson,
                 negative_binomial = function() glmmTMB::nbinom2(),
                 truncated_poisson = function() glmmTMB::truncated_poisson())

refuses <- function(problem) {
  if (problem$nodes > 1) return("it has no quadrature")
  if (problem$residual != "") return("residuals and a random intercept of the same groups: left to nlme")
  if (is.null(families[[problem$family]])) "it has no such family" else ""
}

fit <- function(data, problem) {
  formula <- as.formula(problem$formula)
  zeros <- as.formula(paste("~", if (problem$zeros == "") "0" else problem$zeros))
  fitted <- glmmTMB::glmmTMB(formula, data, family = families[[problem$family]](), ziformula = zeros,
                             control = glmmTMB::glmmTMBControl(parallel = problem$threads))
  stats::vcov(fitted)
  fitted
}

answer <- function(fitted, data, problem) {
  list(loglik = as.numeric(logLik(fitted)), beta = unname(glmmTMB::fixef(fitted)$cond))
}
