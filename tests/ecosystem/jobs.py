"""Jobs of libraries that run on Dask, as their users write them.

A job takes a client and returns what it computed: numbers, strings, arrays, or dicts and lists of
them. Run twice, on whatever workers, it returns the same but for rounding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

Job = Callable[[Client], Any]


def bag(client: Client) -> Any:
    import dask.bag as db

    words = db.from_sequence([f"word{i % 13}" for i in range(5000)], npartitions=16)
    return sorted(words.frequencies().compute())


def array(client: Client) -> Any:
    import dask.array as da

    x = da.random.default_rng(7).normal(size=(800, 800), chunks=(200, 200))
    _, s, _ = da.linalg.svd_compressed(x, 5, seed=3)
    return {
        "singular": s.compute(),
        "gram": (x @ x.T).rechunk((400, 100)).std(axis=0).compute(),
        "overlap": x.map_overlap(lambda block: block * 2, depth=1, boundary="reflect")
        .sum()
        .compute(),
    }


def dataframe_parquet(client: Client) -> Any:
    import dask.dataframe as dd
    import pandas as pd

    rng = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "id": rng.integers(0, 50, 20_000),
            "name": rng.choice(["a", "b", "c"], 20_000),
            "x": rng.normal(size=20_000),
        }
    )
    with tempfile.TemporaryDirectory() as directory:
        dd.from_pandas(frame, npartitions=8).to_parquet(directory)
        read = dd.read_parquet(directory)
        joined = read.merge(read.groupby("id").x.mean().rename("mean").reset_index(), on="id")
        grouped = joined.groupby(["name", "id"]).agg({"x": ["sum", "count"], "mean": "max"})
        result = grouped.compute().sort_index()
        ordered = read.set_index("x").head(5)
    return {"grouped": result.to_numpy(), "ordered": ordered.to_numpy().tolist()}


def zarr(client: Client) -> Any:
    import dask.array as da

    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "x.zarr")
        da.arange(100_000, chunks=9_000).reshape(100, 1000).to_zarr(path)
        x = da.from_zarr(path)
        return {"sum": x.sum().compute(), "rows": x[::7].mean(axis=1).compute()}


def xarray_and_flox(client: Client) -> Any:
    import pandas as pd
    import xarray as xr

    times = pd.date_range("2001-01-01", periods=400)
    values = np.random.default_rng(5).normal(size=(400, 10, 12))
    data = xr.DataArray(
        values, dims=("time", "lat", "lon"), coords={"time": times}, name="t"
    ).chunk(time=100)
    climatology = data.groupby("time.month").mean()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "t.nc"
        # Not by the workers: HDF5 lets one process at a time open a file to write
        data.compute().to_dataset().to_netcdf(path, engine="h5netcdf")
        with xr.open_dataset(path, engine="h5netcdf", chunks={"time": 100}) as opened:
            again = float(opened.t.rolling(time=5).mean().std().compute())
    return {
        "climatology": climatology.compute().values,
        "anomaly": float((data.groupby("time.month") - climatology).std().compute()),
        "weekly": data.resample(time="7D").max().compute().values,
        "file": again,
    }


def flox_alone(client: Client) -> Any:
    import dask.array as da
    import flox

    labels = np.arange(10_000) % 17
    values = da.random.default_rng(2).normal(size=10_000, chunks=500)
    results = {}
    for method in ("map-reduce", "cohorts"):
        found, groups = flox.groupby_reduce(values, labels, func="var", method=method)
        results[method] = [np.asarray(found), np.asarray(groups)]
    return results


def joblib_parallel(client: Client) -> Any:
    import joblib

    with joblib.parallel_config(backend="dask"):
        return joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(200))


def sklearn_search(client: Client) -> Any:
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    x, y = load_digits(return_X_y=True)
    search = GridSearchCV(
        RandomForestClassifier(n_estimators=10, random_state=0), {"max_depth": [3, 6, None]}, cv=3
    )
    with joblib.parallel_config(backend="dask"):
        search.fit(x, y)
    return {"scores": search.cv_results_["mean_test_score"], "best": str(search.best_params_)}


def _regression() -> tuple[Any, Any]:
    import dask.array as da

    x = da.random.default_rng(1).normal(size=(4000, 8), chunks=(500, 8))
    return x, x[:, 0] * 2 - x[:, 1] + 0.1 * x[:, 2] ** 2


def xgboost(client: Client) -> Any:
    from xgboost import dask as dxgb

    x, y = _regression()
    x, y = client.persist([x, y])
    matrix = dxgb.DaskDMatrix(client, x, y)
    output = dxgb.train(
        client,
        {"max_depth": 4, "tree_method": "hist", "nthread": 1},
        matrix,
        num_boost_round=10,
        evals=[(matrix, "train")],
    )
    predicted = dxgb.predict(client, output, x).compute()
    # How rows are spread over workers is the scheduler's choice, and moves the last digits
    return {
        "rounds": len(output["history"]["train"]["rmse"]),
        "good": bool(output["history"]["train"]["rmse"][-1] < 1.0),
        "shape": predicted.shape,
    }


def lightgbm(client: Client) -> Any:
    import lightgbm

    x, y = _regression()
    model = lightgbm.DaskLGBMRegressor(client=client, n_estimators=10, num_leaves=15, verbose=-1)
    model.fit(x, y)
    predicted = model.predict(x).compute()
    return {"shape": predicted.shape, "good": bool(np.corrcoef(predicted, y.compute())[0, 1] > 0.8)}


def dask_ml(client: Client) -> Any:
    from dask_ml.preprocessing import StandardScaler
    from dask_ml.wrappers import ParallelPostFit
    from sklearn.linear_model import LinearRegression

    x, y = _regression()
    scaled = StandardScaler().fit_transform(x)
    model = ParallelPostFit(LinearRegression()).fit(scaled.compute(), y.compute())
    return {"mean": scaled.mean(axis=0).compute(), "predicted": model.predict(scaled).compute()}


def stumpy(client: Client) -> Any:
    import stumpy

    series = np.random.default_rng(9).normal(size=400)
    return np.asarray(stumpy.stumped(client, series, m=20)[:, :2], dtype=float)


def tsfresh(client: Client) -> Any:
    import pandas as pd
    from tsfresh import extract_features
    from tsfresh.feature_extraction import MinimalFCParameters
    from tsfresh.utilities.distribution import ClusterDaskDistributor

    rng = np.random.default_rng(4)
    frame = pd.DataFrame(
        {"id": np.repeat(np.arange(20), 30), "time": np.tile(np.arange(30), 20)}
    ).assign(value=rng.normal(size=600))
    features = extract_features(
        frame,
        column_id="id",
        column_sort="time",
        default_fc_parameters=MinimalFCParameters(),
        distributor=ClusterDaskDistributor(address=client.scheduler.address),
        disable_progressbar=True,
    )
    return features.sort_index().sort_index(axis=1).to_numpy()


#: By the name of what must be installed, whatever else a job needs.
JOBS: dict[str, list[Job]] = {
    "dask": [bag, array, dataframe_parquet],
    "zarr": [zarr],
    "xarray": [xarray_and_flox],
    "flox": [flox_alone],
    "joblib": [joblib_parallel],
    "sklearn": [sklearn_search],
    "xgboost": [xgboost],
    "lightgbm": [lightgbm],
    "dask_ml": [dask_ml],
    "stumpy": [stumpy],
    "tsfresh": [tsfresh],
}
