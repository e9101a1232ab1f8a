# lme4 with its default optimizers; the covariance matrix is asked for within the time, as summary() would.

packages <- c("lme4", "Matrix")

refuses <- function(problem) {
  if (problem$plain == 0) "it has no such family, further predictor or correlation of residuals" else ""
}

fit <- function(data, problem) {
  formula <- as.formula(problem$formula)
  fitted <- if (problem$family == "gaussian") {
    lme4::lmer(formula, data, REML = FALSE)
  } else {
    lme4::glmer(formula, data, family = problem$family, nAGQ = problem$nodes)
  }
  stats::vcov(fitted)
  fitted
}

# With nAGQ > 1 lme4 leaves out the log-likelihood of the saturated model; it is added, so that values compare.
answer <- function(fitted, data, problem) {
  loglik <- as.numeric(logLik(fitted))
  if (problem$nodes > 1) {
    y <- data[[problem$response]]
    loglik <- loglik + if (problem$family == "poisson") {
      sum(dpois(y, y, log = TRUE))
    } else {
      n <- if (problem$trials == "") 1 else data[[problem$trials]]
      sum(dbinom(y, n, y / n, log = TRUE))
    }
  }
  list(loglik = loglik, beta = unname(lme4::fixef(fitted)))
}
