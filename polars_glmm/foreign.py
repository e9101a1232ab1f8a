"""Words of other packages: what an argument or a method of lme4, glmmTMB, nlme, Stata or statsmodels is called here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Any, NoReturn, TypeVar

from polars_glmm.errors import ModelError, suggest

Verb = TypeVar("Verb", bound=Callable[..., Any])

_SENTENCES: dict[str, str] = {
    # arguments that make a model
    "data dataset df dat": "The frame is the first argument: fit(frame, 'y ~ x + (1 | g)'), or df.glmm.fit('y ~ x').",
    "formula formulas fixedformula model fml": "The formula is positional: fit(frame, 'y ~ x + (1 | g)'), or "
    "df.glmm.fit('y ~ x + (1 | g)'); fit.formula is that of a fit.",
    "nagq nquad intpoints integrationpoints quadrature": "Write method=AGQ(nodes=9) for adaptive quadrature, "
    "method='laplace' for one node.",
    "reml isreml": "Write method='reml' or method='ml'; fit.method says which it was.",
    "ml mle": "Write method='ml'.",
    "subset where": "Filter the frame first: df.filter(pl.col('x') > 2).glmm.fit('…').",
    "naaction missingdata naomit dropna": "Write missing='drop' or missing='error'.",
    "dispformula disp sigmaformula dispersionformula": "A dispersion formula is a further formula: "
    "fit(frame, 'y ~ x', 'phi ~ x').",
    "ziformula zi zeroinflation hurdle": "Zero inflation is a further formula: fit(frame, 'y ~ x', 'zi ~ 1', "
    "family='poisson'); a hurdle has family='truncated_poisson'.",
    "pedigree relmat covranef kinship phylogeny ginverse grm": "Write known={'animal': A}: a frame with the columns "
    "level, other_level and value.",
    "random ranformula reformula vcformula re_terms": "Random effects stand in the formula, as in 'y ~ x + (1 | g)', "
    "'y ~ x + (x | g)', or in groups='g'.",
    "contrasts": "Contrasts stand in the formula: C(f, contr.sum), C(f, Treatment(reference='b')).",
    "weights weight aweights pweights priorweights varweights": "Write precision= (divides the variance of a row), "
    "frequency= (identical rows) or trials= (binomial trials).",
    "freqweights fweights fweight counts": "Write frequency='column': the row stands for that many identical rows.",
    "exposure": "Write offset(log(exposure)) in the formula.",
    "size ntrials binomialn": "Write trials='column', or cbind(success, failure) ~ x.",
    "group groupby grouping cluster": "Write groups='column' for random effects, by='column' for one model per key.",
    "correlation corr corstruct corar1 corcompsymm corcar1 corsymm": "Write residual='ar1(time | id)' for correlated "
    "residuals; random effects such as (x | g) are correlated.",
    "inits init startparams startvalues": "Write start={'Intercept': 1.0}, or start=fit.",
    "maxiter maxit maxfun optimizer opt optimx optctrl lmercontrol glmercontrol": "Write "
    "control=Control(search=Search(max_evaluations=…)).",
    "verbose disppbar trace": "Write control=Control(progress=True).",
    "prior priors": "There are no priors: this is maximum likelihood. fixed= holds a parameter.",
    "map constraints": "Write fixed={'Intercept': 0.0} to hold a parameter.",
    # arguments of the verbs on a fit
    "newdata exog newx": "The frame is the first argument: fit.predict(frame).",
    "type which what": "Write kind='response' or kind='link' in predict(); augment() has residuals.",
    "reform reformparam conditional include_random": "Write random='none' (fixed effects alone), random='all', or a "
    "list of groups.",
    "sefit se stderr seed_fit": "Write std_error=True.",
    "allownewlevels samplenewlevels": "Write new_levels='zero', 'null' or 'error'.",
    "level confidence alpha siglevel": "Write conf_level=0.95.",
    "nsim nsims reps": "Write n=100: the number of simulated responses.",
    "seed randomstate": "Write rng=7: a seed or a numpy Generator.",
    "ddf lmertest kenwardroger satterthwaite": "Write df='satterthwaite', df='kenward_roger', df='normal' or a number.",
    "exponentiated exp eform oddsratio": "Write fit.fixef(exponentiate=True).",
    "condvar": "fit.ranef('g') has the conditional standard deviations.",
    "vcovcr vcovhc vce robust sandwich coeftest covtype": "Write vcov='CR2', or vcov=CR('cluster', type='CR2'), as in "
    "fit.fixef(vcov='CR2').",
    "lrtest": "anova(smaller, larger) is the likelihood-ratio test; fit.test_terms(method='lrt') tests each term.",
    # what a fit can be asked for
    "confinterval confinterval95 conf_int intervals": "Write fit.confint(), or fit.confint(method='profile').",
    "profilelik profilelike likelihoodprofile profile_re profilelikelihood": "Write fit.profile(), or "
    "fit.confint(method='profile').",
    "parm parmnames whichparm": "Write which='all', 'fixed', 'random', 'dispersion', or names of parameters.",
    "signames oldnames": "Names are those of polars_glmm.objective: 'Days', 'sd(Subject: Days)', 'phi'.",
    "varcorr cov_re covre vcomp vc variancecomponents": "Write fit.varcorr().",
    "resid residuals residpearson residdeviance residresponse rstandard rstudent": "Write fit.augment(frame): columns "
    "resid, resid_pearson and resid_deviance; quantile=True adds resid_quantile.",
    "quantileresiduals quantileresid qresiduals qresid randomizedquantile residquantile simulateresiduals dharma "
    "createdharma scaledresiduals": "Write fit.augment(frame, quantile=True): resid_quantile; fit.check() for tests.",
    "testdispersion testzeroinflation testuniformity testoutliers testresiduals testquantiles checkmodel "
    "testtemporalautocorrelation checkoverdispersion checkzeroinflation overdispersion overdispfun estatgof": ""
    "Write fit.check(): dispersion, zeros, outliers, uniformity and more.",
    "cooksdistance cooksd cook dfbeta dfbetas mdffits covratio covtrace influenceme getinfluence leaveoneout dffits": ""
    "Write fit.influence('g'), fit.influence_terms('g'); method='case' is of rows.",
    "hatvalues leverages leverage hat hatmatrix": "Write fit.augment(frame, leverage=True).",
    "caic conditionalaic effectivedf effectiveparameters": "Write fit.glance(conditional=True).",
    "predictinterval predictioninterval predinterval": "Write fit.predict(frame, interval='prediction', "
    "new_levels='zero').",
    "marginalmean populationmean predictmarginal mumarginal": "Write fit.predict(frame, random='integrate').",
    "rootogram expectedcounts": "Write fit.count_table(frame).",
    "reffects predictranef ebestimates empiricalbayes dynpred": "Write fit.score(frame): effects of new groups.",
    "fitted fittedvalues fittedvalue mu": "Write fit.augment(frame) or fit.predict(frame).",
    "issingular": "Write fit.singular.",
    "isconverged mleretvals optinfo": "Write fit.converged, fit.certificate, fit.diagnose().",
    "summary summarytable": "Print the fit, or write fit.summary(); tables are fit.glance() and fit.fixef().",
    "params param coefficients beta betas feparams fixedeffects coeftable tidy coefs": "Write fit.fixef(): the column "
    "estimate.",
    "bse stderrors stderror bsefe": "Write fit.fixef(): the column std_error.",
    "pvalues pvalue pval": "Write fit.fixef(): the column p_value.",
    "tvalues tvalue zvalues zvalue": "Write fit.fixef(): the column statistic.",
    "covparams vcovfull covarianceparameters normalizedcovparams": "Write fit.vcov(), or fit.vcov(full=True).",
    "randomeffects raneff blup blups randeff ranefs": "Write fit.ranef(), or fit.ranef('g') for one group.",
    "fixeff fixefs": "Write fit.fixef().",
    "loglik deviance aic bic": "A fit has fit.loglik, fit.deviance, fit.aic, fit.bic; of many see glance().",
    "nobs nobservations": "Write fit.n_obs.",
    "llf llh logl loglikelihood loglike": "Write fit.loglik.",
    "sigma scale theta dispersionparameter": "Write fit.dispersion(); standard deviations of random effects are in "
    "fit.varcorr().",
    "getme modelmatrix modelframe xmatrix": "Write polars_glmm.objective(frame, '…') for the likelihood, "
    "fit.recipe for the columns.",
    "ngrps ngroups nlevels": "Write fit.groups, or fit.ranef('g').height.",
    "predictproba predictmean predicted": "Write fit.predict(frame): for binomial the probability.",
    "plot plotdiagnostics qqplot plotfit": "Write fit.plot.residuals(), fit.plot.caterpillar(), fit.plot.qq_ranef().",
    "refit": "Write fit.update(frame=other).",
    "drop1 add1 step": "Write fit.test_terms(type=2, method='lrt'), or fit.update('. ~ . - x') and anova(smaller, "
    "larger).",
    "anova lrt comparelrtest": "Tests of terms: fit.test_terms(type=3). Two fits: polars_glmm.anova(smaller, larger).",
    "jointtests testterm waldtestterms": "Write fit.test_terms(type=3), with df='kenward_roger' if you like.",
    "krmodcomp kractest vcovadj": "Write fit.test_terms(df='kenward_roger'), fit.test('x', joint=True, df=...), or "
    "fit.vcov(vcov='kenward_roger').",
    "pbmodcomp": "Write fit.test_terms(method='bootstrap', n=1000, rng=1).",
    "contest contest1d contestmd linearhypothesis testparm lincom glht esticon waldtest ttest ftest": "Write "
    "fit.test('a - b = 0'), or fit.test(['a', 'b'], joint=True).",
    "nlcom deltamethod": "Write fit.test('exp(a)/b = 1').",
    "padjust adjustment multipletests mcp": "Write fit.test([...], adjust='holm').",
    "sided tail": "Write alternative='greater' or 'less'.",
    "tost": "Write fit.test('a', equivalence=(-1, 1)).",
    "pbrefdist bootstraptest": "Write anova(smaller, larger, method='bootstrap', n=1000, rng=7).",
    "bootmer parametricbootstrap boot": "Write fit.bootstrap(n=1000, rng=7), or fit.confint(method='bootstrap').",
    "rsquared rsquaredglmm r2nakagawa rsq": "Write fit.r2().",
    "estaticc intraclass designeffect": "Write fit.icc().",
    "rlrsim exactrlrt exactlrt": "Write polars_glmm.rlrt(fit): the exact test of one variance.",
    "modelsel aictab aicctab dredge": "Write polars_glmm.compare({'a': fit_a, 'b': fit_b}).",
    "cv kfold loo crossvalidation looic": "Write fit.cross_validate(10), or fit.cross_validate('group:Subject').",
    "powersim powercurve simr": "Write polars_glmm.power(frame, '…', parameters={…}, test='x', vary={'g': [10, 20]}).",
    "poolfits mipool rubin": "Write polars_glmm.pool(fit(frame, '…', by='imputation')).",
    "emmeans lsmeans lsmean emmip ggemmeans estimatemeans margins getmargeff": "Write fit.marginal_means('f'), or "
    "fit.marginal_means('f', by='g') within levels; Stata's dydx() is fit.slopes().",
    "pairs pairwise pwcompare contrast tukeyhsd glht estimatecontrasts": "Write fit.marginal_means('f', "
    "contrast='pairwise', adjust='tukey').",
    "emtrends dydx marginaleffects avgslopes estimateslopes": "Write fit.slopes(variables='x', by='g'); over a grid: "
    "fit.slopes(polars_glmm.grid(fit), 'x', 'g', scale='link').",
    "avgpredictions avgcomparisons": "Write fit.predictions() or fit.comparisons(): they are averages unless "
    "average=False.",
    "ggpredict ggeffect predictresponse alleffects effect": "Write fit.predict(polars_glmm.grid(fit, x=[0, 5]), "
    "random='none', interval='confidence').",
    "refgrid datagrid expandgrid newdatagrid": "Write polars_glmm.grid(fit, x=[0, 5]): a frame to predict on.",
    "terms call": "Write fit.formula, fit.spec.",
    "aicc qaic": "Write fit.aic, fit.bic.",
    "dfresid dfresidual dfmodel residdf": "Write fit.glance().",
    "fit": "This is a fit already: fit.update(…) fits again; fit.glance() says how well.",
    "tofile save saveas dump topickle pickle load readpickle": "Write fit.write(path), and polars_glmm.read_fit(path) "
    "to read it.",
    "covstruct covariance covstructure covtypes": "Write the structure around the bar: (x | g) is unstructured, "
    "diag(x | g), cs(f | g), ar1(0 + time | g).",
    "noconstant noint nointercept": "Write 0 + in the formula, as in 'y ~ 0 + x'.",
    "intmethod integration laplaceapprox laplace mvaghermite": "Write method='laplace', or method=AGQ(nodes=9).",
    "irr or hr": "Write fit.fixef(exponentiate=True).",
    "absorb fe": "Write C(f) in the formula for fixed effects of levels, or (1 | f) for random ones.",
    "ddfm dfmethod": "Write df='satterthwaite' or df='kenward_roger', as in fit.fixef(df='kenward_roger').",
    "dist distribution": "Write family='poisson'; there are link=, trials= and offset= beside it.",
    "algorithm technique iterate iter niter tol tolerance gtol ftol xtol reltol abstol nlminb": "Write "
    "control=Control(search=Search(decrement=…, max_evaluations=…)).",
    "njobs cores threads ncores nthreads": "Write control=Control(rows=Rows(threads=2)).",
    "chains warmup thin": "There is no sampling: this is maximum likelihood. fit.posterior(1000) draws from its normal "
    "limit.",
    "progress progressbar": "Write control=Control(progress=True).",
    "hessian calcderivs hess": "Write control=Control(search=Search(hessian=False)) to leave it out; "
    "fit.vcov(full=True) is its inverse.",
    "narm": "Write missing='drop' or missing='error'.",
    "wts iweights": "Write precision= (divides the variance of a row), frequency= (identical rows) or trials= "
    "(binomial trials).",
    "endog yvar": "The formula names the response: fit(frame, 'y ~ x + (1 | g)').",
    "cl clm ci conf": "Write fit.confint(); tables have conf_low and conf_high.",
    "empirical": "Write vcov='CR2', as in fit.fixef(vcov='CR2').",
    "solution print show display": "Print the fit; fit.fixef() and fit.ranef() are its tables.",
    "xb eta linpred": "Write kind='link': the linear predictor.",
    "fixedonly marginal": "Write random='none' (effects at zero) or random='integrate' (the population).",
    "messages warnings msgs": "Write fit.notes, or fit.diagnose(); a collection has status().",
    "reparams vcovre covrandom": "Write fit.varcorr().",
    "dof dofresidual dofmodel": "Write fit.glance(): df_model and df_resid.",
    "convergence": "Write fit.converged, fit.certificate; of many see status().",
    "conditionalmodes modes ebe eblups": "Write fit.ranef(), or fit.ranef('g') for one group.",
    "fixefnames coefnames": "Write fit.fixef(): the column term.",
    "sigmahat sigma2 residualvariance": "Write fit.dispersion(); fit.varcorr() has the residual variance.",
    "topandas toframe todict table tables result results head columns": "Answers are frames: fit.fixef(), "
    "fit.varcorr(), fit.ranef(), fit.glance(); .to_pandas() is of a frame.",
    "vif collinearity checkcollinearity": "fit.vcov() has the covariances of coefficients; columns that are "
    "combinations of others are dropped, with a note.",
    "performance modelperformance": "Write fit.glance(), fit.r2(), fit.icc(), fit.check().",
    "gradient objective loglikfunction devfun": "Write polars_glmm.objective(frame, '…'): its loglik and gradient.",
    "lmer glmer glmmtmb lme": "Write df.glmm.fit('y ~ x + (1 | g)', family='poisson').",
    "marginsplot plotranef dotplot qqmath": "Write fit.plot.effects('x'), or fit.plot.caterpillar().",
    "levels": "Write fit.ranef('g'), whose key columns are the levels.",
    "texreg stargazer modelsummary tolatex aslatex astex": "Write fit.report('latex'), or "
    "polars_glmm.report([fit1, fit2]).",
}  # fmt: skip
"""Words with one meaning, without case, dots and underscores, and the sentence that says what to write."""

_WORDS = {word.replace("_", ""): sentence for words, sentence in _SENTENCES.items() for word in words.split()}


_OF_FIT = frozenset(
    ("groups", "family", "link", "method", "trials", "offset", "frequency", "precision", "by", "missing", "start",
     "fixed", "residual", "known", "control")
)  # fmt: skip
"""Arguments of fit() that other verbs lack."""


_OF_TERMS = frozenset({"type", "ddf", "df", "test", "method"})
"""Arguments of other packages' anova for the terms of one model."""


_LIKE = 0.7
"""Likeness of words that are known by name: others of a language are no slips of these."""
_SHORT = 1
"""Letters of a name up to which nothing is like it."""


def answer(word: str) -> str | None:
    """What to write instead of a word of another package, or None where the word is not known."""
    return _WORDS.get(word.lower().replace("_", "").replace(".", ""))


def refuse_argument(verb: str, name: str, known: Iterable[str]) -> NoReturn:
    """Raise TypeError for an argument that a verb does not have, with what to write instead."""
    known = list(known)
    near = suggest(name, known, cutoff=_LIKE)
    found = answer(name)
    hint = f" {found}" if found is not None else near
    if verb == "products" and name in ("family", "link"):
        raise ModelError("Products are of gaussian models with identity link: leave out family= and link=.")
    if verb == "anova" and name in _OF_TERMS:
        raise TypeError("anova() compares fits; each term of one fit is tested by fit.test_terms(type=3, df=…).")
    if name in _OF_FIT:
        raise TypeError(f"{name}= is an argument of fit(), not of {verb}().")
    msg = f"{verb}() has no argument {name!r}.{hint}"
    raise TypeError(msg)


def refuse_attribute(owner: object, name: str) -> NoReturn:
    """Raise AttributeError for an attribute that an object does not have; private names are answered at once."""
    kind = type(owner).__name__
    if name.startswith("_"):
        raise AttributeError(f"{kind!r} object has no attribute {name!r}")
    public = [known for known in dir(type(owner)) if not known.startswith("_") and len(known) > _SHORT]
    found = answer(name)
    hint = f" {found}" if found is not None else suggest(name, public, cutoff=_LIKE)
    raise AttributeError(f"{kind} has no {name!r}.{hint}")


def answered(verb: Verb) -> Verb:
    """A verb whose unknown keyword arguments are answered from the table, before Python refuses them."""
    shown = signature(verb)
    names = frozenset(name for name, one in shown.parameters.items() if one.kind is not Parameter.VAR_KEYWORD)
    open_ended = any(one.kind is Parameter.VAR_KEYWORD for one in shown.parameters.values())
    known = [name for name in names if name not in ("self", "formulas", "fits")]

    @wraps(verb)
    def checked(*args: Any, **arguments: Any) -> Any:
        if not arguments.keys() <= names and not open_ended:
            _refuse_first(verb.__name__, arguments, names, known)
        return verb(*args, **arguments)

    return checked  # type: ignore[return-value]  # the signature is that of the verb


def _refuse_first(verb: str, arguments: Mapping[str, object], names: frozenset[str], known: Iterable[str]) -> NoReturn:
    name = next(one for one in arguments if one not in names)
    if name == "weights":
        family = arguments.get("family", "gaussian")
        raise ModelError(weights_message(family if isinstance(family, str) else getattr(family, "name", "gaussian")))
    refuse_argument(verb, name, known)


def weights_message(family: str) -> str:
    """Which precise argument lme4's `weights` is, for this family."""
    if family in ("gaussian", "gamma", "inverse_gaussian"):
        meaning = f"For {family}, lme4's weights divide the variance of a row: that is precision=."
    elif family == "binomial":
        meaning = "For binomial, lme4's weights are the numbers of trials behind proportions: that is trials=."
    else:
        meaning = f"For {family}, lme4's weights count how often a row occurred: that is frequency=."
    return (
        f"There is no weights=: the word means different things in different packages. {meaning} "
        "(precision= divides the variance of a row, frequency= stands for so many identical rows, "
        "trials= is the number of binomial trials.)"
    )
